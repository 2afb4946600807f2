"""A column of arrays, such as `Array3D` of `datasets` or nested lists, as rows of .npy bytes."""

import numpy as np

from .arrays import to_npy
from .decode import BrokenImage

_TYPES = ("uint8", "uint16", "int8", "int16")
_HEADER = 128  # bytes of a .npy file before its values, for all shapes of images


def holds_images(feature) -> bool:
    """Whether a feature of `datasets` is of arrays of two or three axes, of whole numbers of 8 or 16 bits."""
    axes, dtype = axes_and_type(feature)
    return axes in (2, 3) and dtype in _TYPES


def axes_and_type(feature) -> tuple[int, str]:
    """The number of nested lists, 0 for a feature without, and the type of their values."""
    if hasattr(feature, "shape") and hasattr(feature, "dtype"):  # Array2D to Array5D
        return len(feature.shape), feature.dtype
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    if inner is None:
        return 0, str(getattr(feature, "dtype", ""))
    axes, dtype = axes_and_type(inner)
    return axes + 1, dtype


class ArrayRows:
    """The rows of an Arrow column of nested lists. Each is the .npy file that `np.save` would write of its array."""

    def __init__(self, column):
        self._chunks = [getattr(chunk, "storage", chunk) for chunk in column.chunks if len(chunk)]
        self._ends = np.cumsum([0, *(len(chunk) for chunk in self._chunks)])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def encoded(self, row: int) -> bytes:
        """The bytes of the array as a .npy file. Raises `BrokenImage` for an empty row, and for lists of several lengths."""
        number = int(np.searchsorted(self._ends, row, side="right")) - 1
        values = self._chunks[number].slice(int(row) - int(self._ends[number]), 1)
        shape: list[int] = []
        while _is_list(values):
            if values.null_count:
                raise BrokenImage("the row is empty" if not shape else "a part of it is empty")
            bounds = _bounds(values, np.arange(len(values) + 1))
            lengths = np.diff(bounds)
            if len(lengths) == 0 or (lengths != lengths[0]).any():
                raise BrokenImage("its lists have several lengths")
            shape.append(int(lengths[0]))
            values = values.flatten()
        if values.null_count:
            raise BrokenImage("some of its values are empty")
        return to_npy(values.to_numpy(zero_copy_only=False).reshape(shape))

    def name(self, row: int) -> str:
        """ "row 17"."""
        return f"row {row}"

    def lengths(self) -> np.ndarray:
        """int64 (rows,): bytes of each row as a .npy file, -1 for an empty one. Reads offsets alone."""
        parts = []
        for chunk in self._chunks:
            bounds, values = np.arange(len(chunk) + 1), chunk
            while _is_list(values):
                bounds, values = _bounds(values, bounds), values.values
            size = np.diff(bounds) * (values.type.bit_width // 8) + _HEADER
            size[chunk.is_null().to_numpy(zero_copy_only=False)] = -1
            parts.append(size.astype(np.int64))
        return np.concatenate(parts)


def _is_list(values) -> bool:
    from pyarrow import types

    return types.is_list(values.type) or types.is_large_list(values.type) or types.is_fixed_size_list(values.type)


def _bounds(values, places: np.ndarray) -> np.ndarray:
    """Where, in `values.values`, the lists at these places begin."""
    from pyarrow import types

    if types.is_fixed_size_list(values.type):
        return (places + values.offset) * values.type.list_size
    return values.offsets.to_numpy(zero_copy_only=False)[places]
