"""Images as NumPy arrays: the .npy format, which rows of a table take too, and what an array's axes and type mean."""

import io
import math

import numpy as np

from .decode import BrokenImage
from .pixel_format import UnfitImage

ARRAYS = (".npy",)
_MAGIC = b"\x93NUMPY"


def is_array(encoded: bytes) -> bool:
    """Whether these are the bytes of a .npy file."""
    return bytes(encoded[: len(_MAGIC)]) == _MAGIC


def to_npy(array: np.ndarray) -> bytes:
    """The bytes that `np.save` would write."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=False)
    return stream.getvalue()


def read_npy(encoded: bytes) -> np.ndarray:
    """The array in the bytes of a .npy file, which it shares: nothing is decoded or copied. Raises `BrokenImage`."""
    stream = io.BytesIO(memoryview(encoded)[: 2**16])
    try:
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read_header(stream)
    except Exception as error:  # a damaged header may be any Python expression
        raise BrokenImage("its .npy header is damaged") from error
    if dtype.hasobject:
        raise BrokenImage("it holds Python objects, which are not read")
    # Before an array of that size is made: the header may claim anything.
    if math.prod(shape) * dtype.itemsize != len(encoded) - stream.tell() or 0 in shape:
        raise BrokenImage(f"its {len(encoded)} bytes do not hold an array of {_by(shape)} values")
    return np.frombuffer(encoded, dtype, offset=stream.tell()).reshape(shape, order="F" if is_fortran else "C")


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
