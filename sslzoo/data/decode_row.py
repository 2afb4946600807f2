"""Decoding a row of a split, with its name in the error that ends the run."""

import numpy as np

from sslzoo.errors import InputError

from .bands import Header, decode_bands, read_header
from .memory import PixelSemaphore
from .messages import display_name
from .pixel_format import PixelFormat, UnfitImage
from .raw_split import Rows
from .resolution import RequiredResolution


def decode_row(
    rows: Rows, row: int, form: PixelFormat, longest: int | None, resolution: RequiredResolution | None, semaphore: PixelSemaphore
) -> np.ndarray:
    """The row's image, as `decode_bands` gives it. Raises `BrokenImage`, and `InputError` for one whose channels or type do not fit."""
    try:
        return decode_bands(rows.encoded(row), form, longest, resolution, semaphore)
    except UnfitImage as error:
        raise _refused(rows, row, error) from error


def read_row_header(rows: Rows, row: int, channels: int, longest: int | None, resolution: RequiredResolution | None) -> Header:
    """What is known of the row's image without decoding it. Raises as `decode_row`."""
    try:
        return read_header(rows.encoded(row), channels, longest, resolution)
    except UnfitImage as error:
        raise _refused(rows, row, error) from error


def _refused(rows: Rows, row: int, error: UnfitImage) -> InputError:
    return InputError(f"the image {display_name(rows.name(row))} {error}")
