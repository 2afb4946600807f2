"""What Pillow gets wrong about PNG: files it rejects because of their metadata, and transparent colours."""

import struct

import numpy as np
from PIL import Image

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_IMAGE_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"eXIf", b"IEND"}


def strip_metadata(encoded: bytes) -> bytes | None:
    """The file without text, colour profiles and further frames, which may be large or damaged; None if there is nothing to strip."""
    data = memoryview(encoded)
    if bytes(data[:8]) != _SIGNATURE:
        return None
    kept, start, dropped = [data[:8]], 8, False
    while start + 12 <= len(data):
        length, name = struct.unpack(">I4s", data[start : start + 8])
        end = start + 12 + length
        if name in _IMAGE_CHUNKS:
            kept.append(data[start:end])
        else:
            dropped = True
        start = end
    return b"".join(kept) if dropped else None


def transparency_mask(image: Image.Image, depth: int) -> np.ndarray | None:
    """bool (height, width): where a loaded PNG without alpha has the colour that its file declares transparent; None without such a colour.

    depth: bits per channel in the file; Pillow keeps the upper 8 of colour images.
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
