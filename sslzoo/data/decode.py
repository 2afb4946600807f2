"""Decoding an image file to RGB uint8; whatever cannot be shown faithfully is a `BrokenImage`."""

import io
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import simplejpeg
from PIL import Image

from .exif import orientation
from .memory import PixelSemaphore
from .pixel_format import UnfitImage
from .png import strip_metadata, transparency_mask
from .resolution import Plan, RequiredResolution, plan

# Pillow also reads formats that run other programs (EPS starts Ghostscript) or hold no photos; these are not opened.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
MOST_PIXELS = 178_956_970  # Pillow's limit for decompression bombs, repeated here as programs may disable Pillow's
_LIMIT = f" ({MOST_PIXELS:,} px at most)"
DEPTH_OFFSET = 24  # of the bits per channel in a PNG file
_BLOCK = 2**20  # px of a grey image that are scaled at a time
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 0x0102, 0x0106, 0x0153  # TIFF tags
TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BrokenImage(Exception):
    """This image cannot be decoded; the message is the reason, one short line."""


def decode(
    encoded: bytes, longest: int | None, resolution: RequiredResolution | None = None, semaphore: PixelSemaphore | None = None
) -> np.ndarray:
    """The upright image as RGB: uint8 (height, width, 3), reduced as `plan` says.

    Transparent pixels are blended with white; grey of more than 8 bits is scaled from the full range of its type; an animation or a file
    of several pages gives its first frame; colour profiles and gamma are ignored. At most 178,956,970 px.
    longest: px, the longest allowed side; None: any. semaphore: bounds the px that are decoded at full size at once.
    Raises `BrokenImage`.
    """
    try:
        return _decode(encoded, longest, resolution, semaphore)
    except BrokenImage as error:
        plain = strip_metadata(encoded)
        if plain is None:
            raise
        try:
            return _decode(plain, longest, resolution, semaphore)
        except BrokenImage:
            raise error from None


def read_size(encoded: bytes, longest: int | None, resolution: RequiredResolution | None = None) -> tuple[int, int]:
    """Height and width in px of what `decode` returns, from the header alone. Raises `BrokenImage`."""
    try:
        return _read_size(encoded, longest, resolution)
    except BrokenImage as error:
        plain = strip_metadata(encoded)
        if plain is None:
            raise
        try:
            return _read_size(plain, longest, resolution)
        except BrokenImage:
            raise error from None


def _decode(encoded: bytes, longest: int | None, resolution: RequiredResolution | None, semaphore: PixelSemaphore | None) -> np.ndarray:
    with open_picture(encoded) as image:
        depth = encoded[DEPTH_OFFSET] if image.format == "PNG" else 8
        reduction = plan(image.size, longest, resolution)
        # simplejpeg is faster where its array is the result. Turning and resizing need a Pillow image, which costs what was gained.
        if image.format in ("JPEG", "MPO") and image.size == reduction.size and orientation(image) not in TRANSPOSE:
            with semaphore.acquired(image.width * image.height) if semaphore else nullcontext():
                pixels = _decode_jpeg(encoded, image)
            if pixels is not None:
                return pixels
        # A JPEG is decoded at the smallest scale (1/2, 1/4, 1/8) that keeps the box at least as large as it is going to be.
        box_size = reduction.box[2] - reduction.box[0], reduction.box[3] - reduction.box[1]
        least = tuple(max(1, side * size // part) for side, size, part in zip(image.size, reduction.size, box_size, strict=True))
        width = image.width
        drafted = image.draft(None, least)
        scale = drafted[1][2] / width if drafted else 1
        with semaphore.acquired(image.width * image.height) if semaphore else nullcontext():
            image.load()
            turned = orientation(image)
            image = _reduce(_to_rgb(image, depth), scale, reduction)
        if image.mode == "RGBA":
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        if turned in TRANSPOSE:
            image = image.transpose(TRANSPOSE[turned])
        return np.asarray(image)


def _decode_jpeg(encoded: bytes, image: Image.Image) -> np.ndarray | None:
    """The pixels of a sound JPEG, equal to Pillow's; None for what Pillow has to decode: CMYK, and damage that it may yet tolerate."""
    if image.mode not in ("RGB", "L"):
        return None
    try:
        pixels = simplejpeg.decode_jpeg(memoryview(encoded).cast("B"), "RGB")
    except ValueError:  # also raised for what is only a warning to Pillow
        return None
    return pixels if pixels.shape[:2] == (image.height, image.width) else None


def _read_size(encoded: bytes, longest: int | None, resolution: RequiredResolution | None) -> tuple[int, int]:
    with open_picture(encoded) as image:
        width, height = plan(image.size, longest, resolution).size
        # A PNG may store its orientation after the pixels, where the header does not show it. Pillow turns a TIFF on its own.
        turned = image.format not in ("PNG", "TIFF") and orientation(image) in (5, 6, 7, 8)
        return (width, height) if turned else (height, width)


@contextmanager
def open_picture(encoded: bytes) -> Iterator[Image.Image]:
    """The image, not yet decoded. Whatever goes wrong inside of the block is a `BrokenImage`, except an `UnfitImage`."""
    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise BrokenImage(f"{image.width}x{image.height} px is too large{_LIMIT}")
            yield image
    except (BrokenImage, UnfitImage, MemoryError):
        raise
    except Image.UnidentifiedImageError as error:
        raise BrokenImage("no image format that is read here" if len(encoded) else "0 bytes") from error
    except Image.DecompressionBombError as error:  # of Pillow, whose limit is twice as high
        raise BrokenImage(f"it is too large{_LIMIT}") from error
    except Exception as error:  # decoders raise all kinds of errors for damaged files
        reason = " ".join(str(error).split())[:100]
        raise BrokenImage(reason or type(error).__name__) from error


def _reduce(image: Image.Image, scale: float, reduction: Plan) -> Image.Image:
    """The box of the plan at its final size. scale: the size at which the image was decoded, 1 for full size."""
    if image.size == reduction.size:
        return image
    box = tuple(side * scale for side in reduction.box)
    return image.resize(reduction.size, Image.Resampling.BICUBIC, box=box, reducing_gap=2.0)


def _to_rgb(image: Image.Image, depth: int) -> Image.Image:
    """The image as RGB, or as RGBA where pixels may be transparent. depth: bits per channel of a PNG."""
    if image.mode == "F":
        raise BrokenImage("floating-point pixels have no stated range")
    transparent = transparency_mask(image, depth) if image.format == "PNG" else None
    if image.mode.startswith("I"):
        colours = Image.fromarray(scale_grey(np.asarray(image), *grey_range(image))).convert("RGB")
    elif transparent is not None:
        image.info.pop("transparency")
        colours = image.convert("RGB")
    elif image.has_transparency_data:
        colours = image.convert("RGBA")
        # Programs without transparency write BMP files with alpha 0 everywhere; others read them as opaque.
        return colours.convert("RGB") if image.format == "BMP" and not colours.getchannel("A").getextrema()[1] else colours
    else:
        return image if image.mode == "RGB" else image.convert("RGB")
    if transparent is not None:
        colours.putalpha(Image.fromarray(np.where(transparent, 0, 255).astype(np.uint8)))
    return colours


def grey_range(image: Image.Image) -> tuple[int, int]:
    """The values of black and white in a grey integer image: the limits of its type, as TIFF defines."""
    if image.format != "TIFF":
        return 0, 65535  # Pillow scales other formats to 16 bits
    bits = image.tag_v2.get(_BITS, (16,))[0]
    if image.tag_v2.get(_SAMPLE_FORMAT, (1,))[0] == 2:
        return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    # Photometric interpretation 0: white is zero.
    return (0, 2**bits - 1) if image.tag_v2.get(_PHOTOMETRIC) else (2**bits - 1, 0)


def scale_grey(grey: np.ndarray, black: int, white: int, dtype: type[np.unsignedinteger] = np.uint8) -> np.ndarray:
    """uint8 or uint16 (height, width) from integers (height, width), black to 0 and white to the largest value of `dtype`."""
    if max(black, white) >= 2**31:
        grey = grey.view(np.uint32)  # Pillow stores them as int32
    scaled, most = np.empty(grey.shape, dtype), np.iinfo(dtype).max
    low, high = sorted((black, white))
    rows = max(1, _BLOCK // grey.shape[1])
    for start in range(0, len(grey), rows):
        block = grey[start : start + rows].astype(np.int64).clip(low, high) - low
        block = (block * most + (high - low) // 2) // (high - low)
        scaled[start : start + rows] = block if black < white else most - block
    return scaled
