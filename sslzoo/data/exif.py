"""The EXIF orientation of an image, also where other metadata is damaged."""

import struct

from PIL import Image

_ORIENTATION = 0x0112
_FORMATS = {1: "B", 3: "H", 4: "I"}  # of the integer types


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 without one. Other values have no meaning."""
    try:
        found = image.getexif().get(_ORIENTATION)
        if found is not None:
            return int(found)
    except Exception:  # damaged metadata; the pixels may be fine
        pass
    # Pillow stops at the first tag that it cannot read.
    exif = image.info.get("exif")
    return _find_orientation(exif) if exif else 1


def _find_orientation(exif: bytes) -> int:
    """The orientation among the tags of the first directory, without reading other tags' values."""
    data = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    try:
        start = struct.unpack_from(f"{order}I", data, 4)[0]
        for entry in range(struct.unpack_from(f"{order}H", data, start)[0]):
            tag, kind = struct.unpack_from(f"{order}HH", data, start + 2 + 12 * entry)
            if tag == _ORIENTATION and kind in _FORMATS:
                return struct.unpack_from(f"{order}{_FORMATS[kind]}", data, start + 10 + 12 * entry)[0]
    except struct.error:  # no byte order, or the data end early
        pass
    return 1
