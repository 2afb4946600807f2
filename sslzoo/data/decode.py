"""One encoded image to RGB uint8, whatever it is; everything that cannot be shown faithfully is a `BrokenImage`."""

import io
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
from PIL import Image

from .exif import orientation
from .memory import PixelSemaphore
from .png import strip_metadata, transparency_mask
from .resolution import Plan, RequiredResolution, plan

# Pillow also knows formats that start other programs (EPS runs Ghostscript) or that hold no photos: those stay closed.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
_MOST_PIXELS = 178_956_970  # Pillow's own limit for a decompression bomb, kept here because a program may switch Pillow's off
_AT_MOST = f" ({_MOST_PIXELS:,} px at most)"
_DEPTH = 24  # where in a PNG file the bits of a channel stand
_BLOCK = 2**20  # px of grey that are scaled at a time
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 0x0102, 0x0106, 0x0153  # tags of TIFF
_UPRIGHT = {
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
    """Height and width in px that `decode` will give, from the header alone. Raises `BrokenImage`."""
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
    with _opened(encoded) as image:
        depth = encoded[_DEPTH] if image.format == "PNG" else 8
        wanted = plan(image.size, longest, resolution)
        # The size at which the kept part is as large as it shall be: a JPEG is decoded smaller at once, to whole parts of its px.
        kept = wanted.box[2] - wanted.box[0], wanted.box[3] - wanted.box[1]
        least = tuple(max(1, side * size // part) for side, size, part in zip(image.size, wanted.size, kept, strict=True))
        width = image.width
        drafted = image.draft(None, least)
        part = drafted[1][2] / width if drafted else 1
        with semaphore.acquired(image.width * image.height) if semaphore else nullcontext():
            image.load()
            held = orientation(image)
            image = _reduced(_colours(image, depth), part, wanted)
        if image.mode == "RGBA":
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        if held in _UPRIGHT:
            image = image.transpose(_UPRIGHT[held])
        return np.asarray(image)


def _read_size(encoded: bytes, longest: int | None, resolution: RequiredResolution | None) -> tuple[int, int]:
    with _opened(encoded) as image:
        width, height = plan(image.size, longest, resolution).size
        # A PNG may keep its orientation behind the pixels; its size is then that of the stored image. Pillow turns a TIFF by itself.
        turned = image.format not in ("PNG", "TIFF") and orientation(image) in (5, 6, 7, 8)
        return (width, height) if turned else (height, width)


@contextmanager
def _opened(encoded: bytes) -> Iterator[Image.Image]:
    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            if image.width * image.height > _MOST_PIXELS:
                raise BrokenImage(f"{image.width}x{image.height} px is too large{_AT_MOST}")
            yield image
    except (BrokenImage, MemoryError):
        raise
    except Image.UnidentifiedImageError as error:
        raise BrokenImage("no image format that is read here" if len(encoded) else "0 bytes") from error
    except Image.DecompressionBombError as error:  # Pillow's own limit is twice as high
        raise BrokenImage(f"it is too large{_AT_MOST}") from error
    except Exception as error:  # decoders raise whatever a damaged file leads them to
        reason = " ".join(str(error).split())[:100]
        raise BrokenImage(reason or type(error).__name__) from error


def _reduced(image: Image.Image, part: float, wanted: Plan) -> Image.Image:
    """The kept part in its size. part: px of the image for each of its file."""
    if image.size == wanted.size:
        return image
    box = tuple(side * part for side in wanted.box)
    return image.resize(wanted.size, Image.Resampling.BICUBIC, box=box, reducing_gap=2.0)


def _colours(image: Image.Image, depth: int) -> Image.Image:
    """In RGB, or in RGBA where pixels may be transparent. depth: bits of a PNG's channel."""
    if image.mode == "F":
        raise BrokenImage("floating-point pixels have no stated range")
    see_through = transparency_mask(image, depth) if image.format == "PNG" else None
    if image.mode.startswith("I"):
        shown = Image.fromarray(_scaled(np.asarray(image), *_range(image))).convert("RGB")
    elif see_through is not None:
        image.info.pop("transparency")
        shown = image.convert("RGB")
    elif image.has_transparency_data:
        shown = image.convert("RGBA")
        # All transparent is what programs write that know no transparency, and what others take for none.
        return shown.convert("RGB") if image.format == "BMP" and not shown.getchannel("A").getextrema()[1] else shown
    else:
        return image if image.mode == "RGB" else image.convert("RGB")
    if see_through is not None:
        shown.putalpha(Image.fromarray(np.where(see_through, 0, 255).astype(np.uint8)))
    return shown


def _range(image: Image.Image) -> tuple[int, int]:
    """The values of black and of white in a grey image of whole numbers: those of the whole type, as TIFF has it."""
    if image.format != "TIFF":
        return 0, 65535  # whatever the file has, Pillow makes 16 bits of it
    bits = image.tag_v2.get(_BITS, (16,))[0]
    if image.tag_v2.get(_SAMPLE_FORMAT, (1,))[0] == 2:
        return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    # Photometric 0: white is zero.
    return (0, 2**bits - 1) if image.tag_v2.get(_PHOTOMETRIC) else (2**bits - 1, 0)


def _scaled(grey: np.ndarray, black: int, white: int) -> np.ndarray:
    """uint8 from whole numbers."""
    if max(black, white) >= 2**31:
        grey = grey.view(np.uint32)  # Pillow has no other type for them
    shown = np.empty(grey.shape, np.uint8)
    low, high = sorted((black, white))
    rows = max(1, _BLOCK // grey.shape[1])
    for start in range(0, len(grey), rows):
        part = grey[start : start + rows].astype(np.int64).clip(low, high) - low
        part = (part * 255 + (high - low) // 2) // (high - low)
        shown[start : start + rows] = part if black < white else 255 - part
    return shown
