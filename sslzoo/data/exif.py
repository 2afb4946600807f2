"""How a camera was held."""

import struct

from PIL import Image

_ORIENTATION = 0x0112
_KINDS = {1: "B", 3: "H", 4: "I"}  # of whole numbers


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8 where it means something, 1 where none is told; of an image whose other metadata is damaged, too."""
    try:
        found = image.getexif().get(_ORIENTATION)
        if found is not None:
            return int(found)
    except Exception:  # damaged metadata: the pixels may be fine
        pass
    # Pillow stops at the first tag that it cannot read.
    return _walked(image.info.get("exif") or b"")


def _walked(exif: bytes) -> int:
    """From the tags of the first directory, passing over their values."""
    data = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    try:
        place = struct.unpack_from(f"{order}I", data, 4)[0]
        for entry in range(struct.unpack_from(f"{order}H", data, place)[0]):
            tag, kind = struct.unpack_from(f"{order}HH", data, place + 2 + 12 * entry)
            if tag == _ORIENTATION and kind in _KINDS:
                return struct.unpack_from(f"{order}{_KINDS[kind]}", data, place + 10 + 12 * entry)[0]
    except struct.error:  # no byte order, or the end
        pass
    return 1
