"""Every kind of pixel shows as its format defines it: files written by hand, against values worked out by hand."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from sslzoo.data.decode import BrokenImage, decode, read_size
from sslzoo.data.resolution import RequiredResolution


def tiff(pixels: np.ndarray, bits: int, photometric: int, *, sample_format=1, order="<", extra=(), planar=False, colours=None, packed=None):
    """An uncompressed TIFF of (height, width) or (height, width, channels) in the type of `pixels`; packed: its bytes instead."""
    height, width, channels = (*pixels.shape, 1)[:3]
    ordered = pixels.transpose(2, 0, 1) if planar else pixels
    data = ordered.astype(pixels.dtype.newbyteorder(order)).tobytes() if packed is None else packed
    parts = channels if planar else 1
    counts = [len(data) // parts] * parts
    entries = {
        256: [width], 257: [height], 258: [bits] * channels, 259: [1], 262: [photometric], 273: None, 277: [channels], 278: [height],
        279: counts, 284: [2 if planar else 1], 339: [sample_format] * channels,
    }  # fmt: skip
    if extra:
        entries[338] = list(extra)
    if colours is not None:
        entries[320] = [int(value) for value in colours]
    longs = {256, 257, 273, 278, 279}
    start = 8 + 2 + 12 * len(entries) + 4
    sizes = {tag: (parts if values is None else len(values)) * (4 if tag in longs else 2) for tag, values in entries.items()}
    first = start + sum(size for size in sizes.values() if size > 4)
    entries[273] = [first + part * counts[0] for part in range(parts)]
    table, beyond = struct.pack(f"{order}H", len(entries)), b""
    for tag, values in sorted(entries.items()):
        kind, letter = (4, "I") if tag in longs else (3, "H")
        encoded = struct.pack(f"{order}{len(values)}{letter}", *values)
        place = encoded.ljust(4, b"\0") if len(encoded) <= 4 else struct.pack(f"{order}I", start + len(beyond))
        beyond += encoded if len(encoded) > 4 else b""
        table += struct.pack(f"{order}HHI", tag, kind, len(values)) + place
    return {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8) + table + bytes(4) + beyond + data


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, bits: int, kind: int, *rows: bytes, before: bytes = b"", behind: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, len(rows), bits, kind, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + chunk(b"IDAT", pixels) + behind + chunk(b"IEND", b"")


def shown(encoded: bytes) -> list:
    """Rows of (red, green, blue), of grey pixels their one value."""
    pixels = decode(encoded, None)
    assert pixels.dtype == np.uint8 and read_size(encoded, None) == pixels.shape[:2]
    grey = (pixels == pixels[:, :, :1]).all()
    return pixels[:, :, 0].tolist() if grey else [[tuple(pixel) for pixel in row] for row in pixels.tolist()]


GREY = {  # values, bits, sample format, their grey over the whole range of the type
    "unsigned 8": (np.array([[0, 51, 255]], np.uint8), 8, 1, [0, 51, 255]),
    "unsigned 16": (np.array([[0, 257, 13107, 65535]], np.uint16), 16, 1, [0, 1, 51, 255]),
    "signed 16": (np.array([[-32768, -19661, 0, 32767]], np.int16), 16, 2, [0, 51, 128, 255]),
    "signed 32": (np.array([[-(2**31), -1288490189, 0, 2**31 - 1]], np.int32), 32, 2, [0, 51, 128, 255]),
}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("values", GREY)
def test_grey_tiff_shows_over_the_range_of_its_type(values, order):
    pixels, bits, sample_format, expected = GREY[values]
    assert shown(tiff(pixels, bits, 1, sample_format=sample_format, order=order)) == [expected]


def test_unsigned_32_bits():
    pixels = np.array([[0, 858993459, 2**31, 2**32 - 1]], np.uint32)
    assert shown(tiff(pixels, 32, 1)) == [[0, 51, 128, 255]]


@pytest.mark.parametrize(
    ("pixels", "bits"), [(np.array([[0, 51, 255]], np.uint8), 8), (np.array([[0, 13107, 65535]], np.uint16), 16)], ids=["8", "16"]
)
def test_white_is_zero(pixels, bits):
    assert shown(tiff(pixels, bits, 0)) == [[255, 204, 0]]


@pytest.mark.parametrize(("bits", "packed", "expected"), [
    (1, b"\xa0", [255, 0, 255, 0]), (2, b"\x1b", [0, 85, 170, 255]), (4, b"\x03\xcf", [0, 51, 204, 255]),
    (12, b"\x00\x03\x33\x80\x0f\xff", [0, 51, 128, 255]),
])  # fmt: skip
def test_grey_of_few_bits(bits, packed, expected):
    blank = np.zeros((1, 4), np.uint8)
    assert shown(tiff(blank, bits, 1, packed=packed)) == [expected]
    if bits < 12:  # which Pillow does not open
        assert shown(tiff(blank, bits, 0, packed=packed)) == [[255 - value for value in expected]]


COLOURS = np.array([[[255, 0, 0], [10, 20, 30]]], np.uint8)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planar", [False, True])
def test_colours_in_planes_or_not(planar, order):
    assert shown(tiff(COLOURS, 8, 2, planar=planar, order=order)) == [[(255, 0, 0), (10, 20, 30)]]


def test_colours_of_16_bits_lose_their_lower_ones():
    assert shown(tiff(COLOURS.astype(np.uint16) * 257, 16, 2)) == [[(255, 0, 0), (10, 20, 30)]]
    assert shown(png(2, 16, 2, (COLOURS.astype(">u2") * 257).tobytes())) == [[(255, 0, 0), (10, 20, 30)]]


@pytest.mark.parametrize(("extra", "faint"), [(0, (128, 0, 0)), (1, (255, 127, 127)), (2, (191, 127, 127))])
def test_fourth_channel_is_what_the_file_says(extra, faint):
    pixels = np.array([[[128, 0, 0, 128], [128, 0, 0, 255]]], np.uint8)
    first, second = shown(tiff(pixels, 8, 2, extra=(extra,)))[0]
    assert np.abs(np.subtract(first, faint)).max() <= 1 and second == (128, 0, 0)


def test_colours_from_a_table():
    table = np.zeros((3, 256), int)
    table[:, 7] = 65535, 25700, 0
    assert shown(tiff(np.array([[0, 7]], np.uint8), 8, 3, colours=table.ravel())) == [[(0, 0, 0), (255, 100, 0)]]


def test_inks():
    pixels = np.array([[[0, 0, 0, 0], [255, 0, 0, 0], [0, 0, 0, 255]]], np.uint8)
    assert shown(tiff(pixels, 8, 5)) == [[(255, 255, 255), (0, 255, 255), (0, 0, 0)]]


def test_lab_is_converted_with_signed_colours():
    pixels = np.array([[[0, 0, 0], [255, 0, 0], [137, 0, 0], [139, 80, 67]]], np.uint8)
    black, white, grey, red = shown(tiff(pixels, 8, 8))[0]
    assert max(black) <= 1 and np.abs(np.subtract(white, 255)).max() <= 1
    assert np.abs(np.subtract(grey, 128)).max() <= 2 and np.abs(np.subtract(red, (255, 0, 0))).max() <= 12


@pytest.mark.parametrize("order", ["<", ">"])
def test_floating_point_is_refused_with_a_word(order):
    with pytest.raises(BrokenImage, match="floating-point pixels have no stated range"):
        decode(tiff(np.array([[0.5]], np.float32), 32, 1, sample_format=3, order=order), None)


def test_inks_of_a_photo_of_adobes():
    inverted = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # red
    stream = io.BytesIO()
    inverted.save(stream, "JPEG", quality=100, subsampling=0)
    assert b"Adobe" in stream.getvalue()
    np.testing.assert_allclose(decode(stream.getvalue(), None), np.broadcast_to([255, 0, 0], (16, 16, 3)), atol=3)


# PNG


@pytest.mark.parametrize(("bits", "row", "colour"), [
    (1, b"\x40", 0), (2, b"\x10", 0), (2, b"\x40", 1), (4, b"\x5f", 5), (8, b"\x05\xff", 5), (16, b"\x03\xe8\xff\xff", 1000),
])  # fmt: skip
def test_transparent_grey_shows_white_whatever_its_bits(bits, row, colour):
    grey = shown(png(2, bits, 0, row))[0]
    hidden = shown(png(2, bits, 0, row, before=chunk(b"tRNS", struct.pack(">H", colour))))[0]
    where = 1 if (bits, row) == (1, b"\x40") and colour else 0
    assert grey[where] != 255 and hidden[where] == 255 and hidden[1 - where] == grey[1 - where]


def test_transparent_colour_of_16_bits_shows_white():
    row = np.array([1000, 2000, 3000, 65535, 0, 256], ">u2").tobytes()
    assert shown(png(2, 16, 2, row, before=chunk(b"tRNS", struct.pack(">HHH", 1000, 2000, 3000)))) == [[(255, 255, 255), (255, 0, 1)]]


def test_gamma_changes_nothing():
    assert shown(png(2, 8, 0, b"\x05\x80", before=chunk(b"gAMA", struct.pack(">I", 100_000)))) == [[5, 128]]


LARGE = zlib.compress(bytes(2**21))
CHUNKS = {
    "text": chunk(b"zTXt", b"Comment\0\0" + LARGE),
    "international text": chunk(b"iTXt", b"Comment\0\1\0\0\0" + LARGE),
    "colour profile": chunk(b"iCCP", b"profile\0\0" + LARGE),
    "plain text": chunk(b"tEXt", b"Comment\0" + b"x" * 2**21) * 33,
    "damaged text": chunk(b"zTXt", b"Comment\0\0" + LARGE)[:-1] + b"?",
}


@pytest.mark.parametrize("place", ["before", "behind"])
@pytest.mark.parametrize("what", CHUNKS)
def test_what_is_not_pixels_costs_no_png(what, place):
    assert shown(png(3, 8, 0, b"\x01\x02\x03", **{place: CHUNKS[what]})) == [[1, 2, 3]]


def test_turned_png_with_a_large_text_stays_turned():
    turned = chunk(b"eXIf", b"II*\0\x08\0\0\0" + struct.pack("<HHHIHHI", 1, 0x0112, 3, 1, 6, 0, 0))
    assert decode(png(3, 8, 0, b"\x01\x02\x03", before=CHUNKS["text"] + turned), None)[:, 0, 0].tolist() == [1, 2, 3]


def test_truncated_png_with_a_text_stays_broken():
    encoded = png(3, 8, 0, b"\x01\x02\x03", before=chunk(b"tEXt", b"a\0b"))
    with pytest.raises(BrokenImage):
        decode(encoded[:-30], None)


# BMP


def bmp(alpha: tuple[int, int], masks: bool) -> bytes:
    """Two pixels of 32 bits, red and blue. masks: the header says where the alpha is."""
    pixels = bytes([0, 0, 255, alpha[0], 255, 0, 0, alpha[1]])
    size = 108 if masks else 40
    header = struct.pack("<IiiHHIIiiII", size, 2, 1, 1, 32, 3 if masks else 0, len(pixels), 2835, 2835, 0, 0)
    header += struct.pack("<IIIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000, 0x57696E20).ljust(size - 40, b"\0") if masks else b""
    return struct.pack("<2sIHHI", b"BM", 14 + size + len(pixels), 0, 0, 14 + size) + header + pixels


@pytest.mark.parametrize("masks", [True, False])
def test_bitmap_that_is_nowhere_opaque_has_no_alpha(masks):
    assert shown(bmp((0, 0), masks)) == [[(255, 0, 0), (0, 0, 255)]]


def test_bitmap_with_alpha_is_laid_on_white():
    assert shown(bmp((0, 255), True)) == [[(255, 255, 255), (0, 0, 255)]]


# PPM, JPEG 2000, GIF


@pytest.mark.parametrize(("encoded", "expected"), [
    (b"P5 3 1 1000\n" + np.array([0, 200, 1000], ">u2").tobytes(), [[0, 51, 255]]),
    (b"P5 3 1 65535\n" + np.array([0, 13107, 65535], ">u2").tobytes(), [[0, 51, 255]]),
    (b"P5 3 1 5\n" + bytes([0, 1, 5]), [[0, 51, 255]]),
    (b"P2 3 1 1000\n0 200 1000\n", [[0, 51, 255]]),
    (b"P6 1 1 65535\n" + np.array([65535, 13107, 0], ">u2").tobytes(), [[(255, 51, 0)]]),
    (b"P4 4 1\n\x50", [[255, 0, 255, 0]]),
])  # fmt: skip
def test_portable_maps_show_over_the_range_that_they_state(encoded, expected):
    assert shown(encoded) == expected


def test_portable_map_of_fractions_is_refused():
    with pytest.raises(BrokenImage, match="floating-point"):
        decode(b"Pf 1 1 -1.0\n" + struct.pack("<f", 0.5), None)


def test_jpeg_2000_of_16_bits():
    stream = io.BytesIO()
    Image.fromarray(np.array([[0, 13107, 65535]], np.uint16)).save(stream, "JPEG2000", irreversible=False)
    assert shown(stream.getvalue()) == [[0, 51, 255]]


def test_animation_whose_first_frame_is_a_palettes():
    frames = []
    for colour in ((255, 0, 0), (0, 0, 255)):
        frame = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
        frame.putpalette([*colour, 9, 8, 7])
        frames.append(frame)
    stream = io.BytesIO()
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    assert shown(stream.getvalue()) == [[(255, 0, 0), (9, 8, 7)]]


# EXIF


@pytest.mark.filterwarnings("ignore:.*EXIF")
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("damage", ["more entries than there are", "a value beyond the end", "no other tags"])
def test_orientation_is_honoured_though_other_tags_are_damaged(orientation, damage):
    scene = np.zeros((32, 48, 3), np.uint8)
    scene[:16, :24], scene[:16, 24:], scene[16:, :24] = (200, 30, 30), (30, 180, 30), (30, 30, 220)
    stored = {
        1: scene, 2: scene[:, ::-1], 3: scene[::-1, ::-1], 4: scene[::-1], 5: scene.transpose(1, 0, 2), 6: np.rot90(scene, 1),
        7: scene[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(scene, -1),
    }[orientation]  # fmt: skip
    tag = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    others = struct.pack("<HHII", 0x010F, 2, 40, 60_000) if damage == "a value beyond the end" else b""
    count = 40 if damage == "more entries than there are" else 1 + len(others) // 12
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", count) + others + tag + bytes(4)
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(stored)).save(stream, "JPEG", quality=100, subsampling=0, exif=exif)
    np.testing.assert_allclose(decode(stream.getvalue(), None).astype(int), scene.astype(int), atol=6)
    assert read_size(stream.getvalue(), None) == (32, 48)


# What is kept of large ones


def test_transparency_is_not_smeared_into_colours_when_reduced():
    image = np.zeros((64, 64, 4), np.uint8)
    image[:, :32] = 255, 0, 0, 255  # beside transparent black, which must not darken its edge
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    reduced = decode(stream.getvalue(), None, RequiredResolution(4, 2))
    assert reduced.shape == (8, 8, 3) and (reduced[:, :, 0] == 255).all()
