"""Opens an uploaded image safely: known formats, bounded size, upright, in RGB, without metadata."""

import numpy as np
from PIL import Image, ImageOps

from sslzoo.errors import InputError

_MAX_PIXELS = 40_000_000
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")  # Pillow also has formats that start other programs
_MAX_SIDE = 1024  # px; no encoder here sees more of an upload


def open_upload(file: str, max_side: int = _MAX_SIDE) -> Image.Image:
    """The image upright in RGB, without metadata, no side longer than `max_side` px. Raises `InputError`."""
    try:
        with Image.open(file, formats=_FORMATS) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise InputError(f"the image has {image.width} x {image.height} pixels, this page takes 40 million at most")
            image.draft("RGB", (max_side, max_side))
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # 16 bits, which Pillow would clip
                upright = Image.fromarray((np.asarray(upright).clip(0, 65535) >> 8).astype(np.uint8))
            if upright.has_transparency_data:
                upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright.convert("RGBA"))
            upright = upright.convert("RGB")
    except InputError:
        raise
    except Exception as error:  # decoders raise almost any type for a damaged file
        raise InputError("this file cannot be read as an image: JPEG, PNG, WebP, GIF, BMP and TIFF can") from error
    upright.thumbnail((max_side, max_side))
    return Image.fromarray(np.asarray(upright))
