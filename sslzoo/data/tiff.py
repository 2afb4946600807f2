"""TIFF files of several channels, read by tifffile: Pillow reads few of them, and these with 8 bits."""

import io

import numpy as np
from PIL import TiffImagePlugin

from sslzoo.errors import InputError

from .decode import BrokenImage

_SAMPLES_PER_PIXEL = 277
_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MOST_BYTES = 2**32  # of a decoded image


def is_tiff(encoded: bytes) -> bool:
    """Whether the bytes begin as those of a TIFF or BigTIFF file."""
    return bytes(encoded[:4]) in _STARTS


def channels_of_tiff(encoded: bytes) -> int | None:
    """The channels that the header states, 1 without a statement; None for what is no TIFF file, and for a damaged header."""
    if not is_tiff(encoded):
        return None
    try:
        stream = io.BytesIO(encoded)
        tags = TiffImagePlugin.ImageFileDirectory_v2(stream.read(16 if b"+" in bytes(encoded[2:4]) else 8))
        stream.seek(tags.next)
        tags.load(stream)
        return int(tags.get(_SAMPLES_PER_PIXEL, 1))
    except Exception:  # of a damaged file
        return None


def tiff_shape(encoded: bytes) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of the array in a TIFF file, without its axes of length 1. Raises as `read_tiff`."""
    return _first_series(encoded, lambda series: (tuple(side for side in series.shape if side > 1), np.dtype(series.dtype)))


def read_tiff(encoded: bytes) -> np.ndarray:
    """The first image of a TIFF file, channels first or last, or its pages where each is a channel.

    Raises `BrokenImage`, and `InputError` where tifffile is not installed.
    """
    return _first_series(encoded, lambda series: series.asarray().squeeze())


def _first_series(encoded: bytes, read):
    try:
        import tifffile
    except ImportError as error:
        raise InputError("TIFF files of several channels need the package 'tifffile': pip install 'sslzoo[tiff]'") from error
    try:
        with tifffile.TiffFile(io.BytesIO(encoded)) as opened:
            series = opened.series[0]
            if series.nbytes > _MOST_BYTES:
                raise BrokenImage(f"{series.nbytes:,} bytes of pixels are too many for an image")
            return read(series)
    except (BrokenImage, MemoryError):
        raise
    except Exception as error:  # decoders raise all kinds of errors for damaged files
        reason = " ".join(str(error).split())[:100]
        raise BrokenImage(reason or type(error).__name__) from error
