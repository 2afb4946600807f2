"""Decoding an image to the channels that the recipe asks for: RGB, grey, or the channels as they are stored."""

from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
from PIL import Image

from .arrays import is_array, read_npy, to_image
from .decode import (
    DEPTH_OFFSET,
    MOST_PIXELS,
    TRANSPOSE,
    BrokenImage,
    decode,
    grey_range,
    open_picture,
    read_size,
    scale_grey,
)
from .exif import orientation
from .memory import PixelSemaphore
from .pixel_format import PixelFormat, UnfitImage
from .png import transparency_mask
from .resolution import Plan, RequiredResolution, plan
from .tiff import channels_of_tiff, is_tiff, read_tiff, tiff_shape

_GREY = ("1", "L", "I")  # first letters of Pillow's modes of one channel; "I;16" is one


class Header(NamedTuple):
    """What is known of an image before it is decoded. is_grey: None where it is neither grey nor a colour picture."""

    height: int
    width: int
    dtype: np.dtype
    is_grey: bool | None = None


def decode_bands(
    encoded: bytes, pixels: PixelFormat, longest: int | None, resolution: RequiredResolution | None, semaphore: PixelSemaphore
) -> np.ndarray:
    """The image as (height, width, channels) of the format's type, reduced as `plan` says.

    3 channels: a picture is RGB, as `decode` gives it. 1: a picture is made grey, by its luma. Other numbers, and arrays of any: the
    channels as stored. Raises `BrokenImage`, and `UnfitImage` for other numbers of channels and for values without a stated range.
    """
    if is_array(encoded):
        return pixels.fit(_reduced(_checked(to_image(read_npy(encoded), pixels.channels)), longest, resolution, semaphore))
    if pixels.channels == 3:
        return pixels.fit(_explained(encoded, 3, lambda: decode(encoded, longest, resolution, semaphore)))
    if pixels.channels == 1:
        return pixels.fit(_explained(encoded, 1, lambda: _decode_grey(encoded, longest, resolution, semaphore)))
    if is_tiff(encoded):
        return pixels.fit(_reduced(_checked(to_image(read_tiff(encoded), pixels.channels)), longest, resolution, semaphore))
    return pixels.fit(_reduced(_stored_bands(encoded, pixels.channels), longest, resolution, semaphore))


def read_header(encoded: bytes, channels: int, longest: int | None, resolution: RequiredResolution | None) -> Header:
    """Height and width in px of what `decode_bands` returns, and the type that holds its values. Decodes nothing. Raises like it."""
    if is_array(encoded):
        image = _checked(to_image(read_npy(encoded), channels))
    elif channels > 1 and channels != 3 and is_tiff(encoded):
        shape, dtype = tiff_shape(encoded)
        image = _checked(to_image(np.broadcast_to(np.zeros((), dtype), shape), channels))
    else:
        height, width = _explained(encoded, channels, lambda: read_size(encoded, longest, resolution))
        if channels == 3:
            return Header(height, width, np.dtype(np.uint8))
        with open_picture(encoded) as picture:
            is_grey = picture.mode.startswith(_GREY)
            if channels > 1:
                _check_bands(encoded, picture, channels)
            dtype = np.uint16 if channels == 1 and picture.mode.startswith("I") else np.uint8
        return Header(height, width, np.dtype(dtype), is_grey)
    width, height = plan((image.shape[1], image.shape[0]), longest, resolution).size
    return Header(height, width, image.dtype)


def _explained(encoded: bytes, channels: int, read):
    """read(), with a better reason for a TIFF file that Pillow does not read because of its channels."""
    try:
        return read()
    except BrokenImage as error:
        found = channels_of_tiff(encoded)
        if found is None or found in (1, 3, 4):
            raise
        raise UnfitImage(f"has {found} channels, and the recipe's `channels` is {channels}") from error


def _decode_grey(
    encoded: bytes, longest: int | None, resolution: RequiredResolution | None, semaphore: PixelSemaphore
) -> np.ndarray:
    with open_picture(encoded) as picture:
        depth = encoded[DEPTH_OFFSET] if picture.format == "PNG" else 8
        if picture.mode.startswith("I"):
            with semaphore.acquired(picture.width * picture.height):
                picture.load()
                grey = scale_grey(np.asarray(picture), *grey_range(picture), np.uint16)
                transparent = transparency_mask(picture, depth) if picture.format == "PNG" else None
                turned = orientation(picture)
            if transparent is not None:
                grey[transparent] = np.iinfo(np.uint16).max
            image = _resized(grey[..., None], plan((grey.shape[1], grey.shape[0]), longest, resolution))
            if turned in TRANSPOSE:
                image = np.asarray(Image.fromarray(image[..., 0]).transpose(TRANSPOSE[turned]))[..., None]
            return image
    rgb = decode(encoded, longest, resolution, semaphore)
    return np.asarray(Image.fromarray(rgb).convert("L"))[..., None]


def _stored_bands(encoded: bytes, channels: int) -> np.ndarray:
    with open_picture(encoded) as picture:
        _check_bands(encoded, picture, channels)
        return np.asarray(picture)


def _check_bands(encoded: bytes, picture: Image.Image, channels: int) -> None:
    found = len(picture.getbands()) if picture.mode != "P" else 3
    if found != channels:
        raise UnfitImage(f"has {found} {'channel' if found == 1 else 'channels'}, and the recipe's `channels` is {channels}")
    if picture.format == "PNG" and encoded[DEPTH_OFFSET] > 8:
        raise UnfitImage(f"is a PNG of 16 bits and {channels} channels, of which 8 bits are read: store it as TIFF or .npy")


def _checked(image: np.ndarray) -> np.ndarray:
    if image.shape[0] * image.shape[1] > MOST_PIXELS:
        raise BrokenImage(f"{image.shape[1]}x{image.shape[0]} px is too large ({MOST_PIXELS:,} px at most)")
    return image


def _reduced(
    image: np.ndarray, longest: int | None, resolution: RequiredResolution | None, semaphore: PixelSemaphore
) -> np.ndarray:
    reduction = plan((image.shape[1], image.shape[0]), longest, resolution)
    with semaphore.acquired(image.nbytes // 3) if (image.shape[1], image.shape[0]) != reduction.size else nullcontext():
        return _resized(image, reduction)


def _resized(image: np.ndarray, reduction: Plan) -> np.ndarray:
    """The box of the plan at its final size, of the image's type: rounded, and what bicubic weights overshoot cut, as Pillow does."""
    if (image.shape[1], image.shape[0]) == reduction.size:
        return image
    result = np.empty((reduction.size[1], reduction.size[0], image.shape[2]), image.dtype)
    for band in range(image.shape[2]):
        plane = Image.fromarray(image[..., band].astype(np.float32))
        plane = plane.resize(reduction.size, Image.Resampling.BICUBIC, box=reduction.box, reducing_gap=2.0)
        result[..., band] = np.asarray(plane).round().clip(0, np.iinfo(image.dtype).max)
    return result
