"""Images as NumPy arrays: the .npy format, which rows of a table take too, and what an array's axes and type mean."""

import io
import math
import re
import struct

import numpy as np

from .decode import BrokenImage
from .pixel_format import UnfitImage

ARRAYS = (".npy",)
_MAGIC = b"\x93NUMPY"
_LENGTH_OFFSET = len(_MAGIC) + 2  # of the header's length, after the two bytes of the format's version
# Of the header, a dictionary as Python writes it: type, order and shape.
_FIELDS = tuple(
    re.compile(rf"['\"]{key}['\"]\s*:\s*{value}")
    for key, value in (("descr", r"['\"]([<>|=]?[a-zA-Z]\d*)['\"]"), ("fortran_order", "(True|False)"), ("shape", r"\(([\d\s,L]*)\)"))
)


def is_array(encoded: bytes) -> bool:
    """Whether these are the bytes of a .npy file."""
    return bytes(encoded[: len(_MAGIC)]) == _MAGIC


def to_npy(array: np.ndarray) -> bytes:
    """The bytes that `np.save` would write."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=False)
    return stream.getvalue()


def read_npy(encoded: bytes) -> np.ndarray:
    """The array in the bytes of a .npy file, which it shares: nothing is decoded or copied. Thread-safe. Raises `BrokenImage`."""
    try:
        shape, is_fortran, dtype, start = _header(encoded)
    except (struct.error, IndexError, TypeError, ValueError) as error:
        raise BrokenImage("its .npy header does not describe an array of numbers") from error
    if dtype.hasobject:
        raise BrokenImage("it holds Python objects, which are not read")
    # Before an array of that size is made: the header may claim anything.
    if math.prod(shape) * dtype.itemsize != len(encoded) - start or 0 in shape:
        raise BrokenImage(f"its {len(encoded)} bytes do not hold an array of {_by(shape)} values")
    return np.frombuffer(encoded, dtype, offset=start).reshape(shape, order="F" if is_fortran else "C")


def _header(encoded: bytes) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Shape, whether the first axis is the fastest, type, and where the values begin.

    NumPy's own reader is not used: it parses the header as Python, which in several threads at once now and then fails on a sound file,
    as CPython 3.11 counts the depth of the syntax trees of all threads together.
    """
    length = struct.Struct("<H" if encoded[len(_MAGIC)] == 1 else "<I")
    (size,) = length.unpack_from(encoded, _LENGTH_OFFSET)
    start = _LENGTH_OFFSET + length.size
    header = bytes(memoryview(encoded)[start : start + size]).decode("latin-1")
    descr, is_fortran, shape = (field.search(header)[1] for field in _FIELDS)
    axes = tuple(int(axis) for axis in shape.replace("L", "").split(",") if axis.strip())
    return axes, is_fortran == "True", np.dtype(descr), start + size


def to_image(array: np.ndarray, channels: int) -> np.ndarray:
    """The array as (height, width, channels) of uint8 or uint16.

    Two axes are one channel. Of three, the last holds the channels if it has that length, else the first. Signed values are shifted by half
    of their type's range: the smallest becomes 0. Raises `UnfitImage` for other shapes and types.
    """
    shifts = {"u1": None, "u2": None, "i1": (np.uint8, 2**7), "i2": (np.uint16, 2**15)}
    kind = array.dtype.str[1:]
    if kind not in shifts:
        raise UnfitImage(f"is an array of {array.dtype.name}, whose black and white nothing states: store uint8, uint16 or int16")
    image = array[..., None] if array.ndim == 2 else array
    if image.ndim == 3 and image.shape[2] != channels and image.shape[0] == channels:
        image = image.transpose(1, 2, 0)
    if image.ndim != 3 or image.shape[2] != channels:
        raise UnfitImage(f"is an array of {_by(array.shape)} values, and the recipe's `channels` is {channels}")
    image = image.astype(image.dtype.newbyteorder("="), copy=False)
    shift = shifts[kind]
    # Modulo the range of the type, so that no value is cut.
    return image if shift is None else image.view(shift[0]) + shift[0](shift[1])


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "no"
