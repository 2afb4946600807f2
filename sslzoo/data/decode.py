"""One encoded image to RGB uint8, whatever it is; everything that cannot be shown faithfully is a `BrokenImage`."""

import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

# Pillow also knows formats that start other programs (EPS runs Ghostscript) or that hold no photos: those stay closed.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
_MOST_PIXELS = 178_956_970  # Pillow's own limit for a decompression bomb, kept here because a program may switch Pillow's off
_ORIENTATION = 0x0112
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


def decode(encoded: bytes, longest: int | None) -> np.ndarray:
    """The image upright as RGB: uint8 (height, width, 3), reduced so that no side is longer than `longest` px.

    Transparent pixels show white, 16-bit grey is scaled to 8 bits, an animation gives its first frame. Raises `BrokenImage`.
    """
    with _opened(encoded) as image:
        width, height = _reduced(image.size, longest)
        image.draft(None, (width, height))
        image.load()
        orientation = _orientation(image)
        image = _rgb(image)
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)
        if orientation in _UPRIGHT:
            image = image.transpose(_UPRIGHT[orientation])
        return np.asarray(image)


def read_size(encoded: bytes, longest: int | None) -> tuple[int, int]:
    """Height and width in px that `decode` will give, from the header alone. Raises `BrokenImage`."""
    with _opened(encoded) as image:
        width, height = _reduced(image.size, longest)
        # A PNG may keep its orientation behind the pixels; its size is then that of the stored image. Pillow turns a TIFF by itself.
        turned = image.format not in ("PNG", "TIFF") and _orientation(image) >= 5
        return (width, height) if turned else (height, width)


@contextmanager
def _opened(encoded: bytes) -> Iterator[Image.Image]:
    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            if image.width * image.height > _MOST_PIXELS:
                raise BrokenImage(f"{image.width}x{image.height} px is too large")
            yield image
    except (BrokenImage, MemoryError):
        raise
    except Image.UnidentifiedImageError as error:
        raise BrokenImage("no image format that is read here" if len(encoded) else "0 bytes") from error
    except Exception as error:  # decoders raise whatever a damaged file leads them to
        reason = " ".join(str(error).split())[:100]
        raise BrokenImage(reason or type(error).__name__) from error


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged metadata: the pixels may be fine
        return 1


def _reduced(size: tuple[int, int], longest: int | None) -> tuple[int, int]:
    if longest is None or max(size) <= longest:
        return size
    scale = longest / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F":
        raise BrokenImage("floating-point pixels have no stated range")
    if image.mode.startswith("I"):
        # Pillow's own conversion clips at 255, which turns nearly all of a 16-bit image white.
        grey = np.asarray(image).astype(np.int64).clip(0, 65535)
        return Image.fromarray(((grey * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")
