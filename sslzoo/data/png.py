"""What Pillow gets wrong of PNG: files it refuses for what is not their pixels, and the transparent colour."""

import struct

import numpy as np
from PIL import Image

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"eXIf", b"IEND"}


def strip_metadata(encoded: bytes) -> bytes | None:
    """The file without text, colour profiles and frames behind the first, which may be large or damaged; None where it has none of them."""
    data = memoryview(encoded)
    if bytes(data[:8]) != _SIGNATURE:
        return None
    kept, place, dropped = [data[:8]], 8, False
    while place + 12 <= len(data):
        length, name = struct.unpack(">I4s", data[place : place + 8])
        end = place + 12 + length
        if name in _PIXELS:
            kept.append(data[place:end])
        else:
            dropped = True
        place = end
    return b"".join(kept) if dropped else None


def transparency_mask(image: Image.Image, depth: int) -> np.ndarray | None:
    """bool (height, width), where a loaded PNG without alpha has the colour that its file calls transparent; None where it has none.

    depth: bits of a channel in the file, of which Pillow keeps the upper 8 of colours.
    """
    colour = image.info.get("transparency")
    if not isinstance(colour, int | tuple):
        return None
    pixels = np.asarray(image)
    if image.mode == "RGB":
        return (pixels == np.array(colour) >> max(0, depth - 8)).all(axis=2)
    if image.mode == "L":
        colour = colour * 255 // (2**depth - 1)
    return pixels == colour
