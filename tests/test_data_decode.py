"""Any encoded image becomes upright RGB, or a `BrokenImage` with a reason of one line."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from sslzoo.data.decode import BrokenImage, decode, read_size


def encode(image: Image.Image, form: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def quarters(height: int = 32, width: int = 48) -> np.ndarray:
    """Four plain colours, so that no flip or turn looks like another; JPEG keeps them as its blocks do not cross their borders."""
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, : width // 2] = (200, 30, 30)
    image[: height // 2, width // 2 :] = (30, 180, 30)
    image[height // 2 :, : width // 2] = (30, 30, 220)
    image[height // 2 :, width // 2 :] = (220, 220, 60)
    return image


def turned_tag(orientation) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


# How a camera held in each way stores an upright scene, after the EXIF standard's table of row 0 and column 0.
STORED = {
    1: lambda scene: scene,
    2: lambda scene: scene[:, ::-1],
    3: lambda scene: scene[::-1, ::-1],
    4: lambda scene: scene[::-1],
    5: lambda scene: scene.transpose(1, 0, 2),
    6: lambda scene: np.rot90(scene, 1),
    7: lambda scene: scene[::-1, ::-1].transpose(1, 0, 2),
    8: lambda scene: np.rot90(scene, -1),
}
EXACT = {"PNG": {}, "WEBP": {"lossless": True}, "TIFF": {}}
FINE = {"quality": 100, "subsampling": "4:4:4"}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("form", [*EXACT, "JPEG", "MPO", "AVIF"])
def test_every_exif_orientation_comes_upright(form, orientation):
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](quarters())))
    options = EXACT.get(form, FINE)
    decoded = decode(encode(stored, form, exif=turned_tag(orientation), **options), None)
    assert decoded.shape == (32, 48, 3)
    np.testing.assert_allclose(decoded.astype(int), quarters().astype(int), atol=0 if form in EXACT else 6)


def test_turned_tiff_that_is_compressed_comes_upright():
    stored = Image.fromarray(np.ascontiguousarray(STORED[6](quarters())))
    encoded = encode(stored, "TIFF", compression="tiff_lzw", exif=turned_tag(6))
    np.testing.assert_array_equal(decode(encoded, None), quarters())
    assert read_size(encoded, None) == (32, 48)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_meaningless_orientation_leaves_the_image_as_stored(orientation):
    encoded = encode(Image.fromarray(quarters()), "PNG", exif=turned_tag(orientation))
    np.testing.assert_array_equal(decode(encoded, None), quarters())


def test_orientation_that_is_a_text_does_not_cost_the_image():
    tag = b"II*\0\x08\0\0\0" + struct.pack("<HHHI4sI", 1, 0x0112, 2, 4, b"up\0\0", 0)
    encoded = encode(Image.fromarray(quarters()), "PNG", exif=tag)
    np.testing.assert_array_equal(decode(encoded, None), quarters())
    assert read_size(encode(Image.fromarray(quarters()), "WEBP", exif=tag), None) == (32, 48)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("damage", [b"", b"garbage", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff\x01\x12"])
def test_damaged_exif_does_not_cost_the_image(damage):
    encoded = encode(Image.fromarray(quarters()), "JPEG", **FINE, exif=b"Exif\0\0" + damage)
    np.testing.assert_allclose(decode(encoded, None).astype(int), quarters().astype(int), atol=6)
    assert read_size(encoded, None) == (32, 48)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled_and_not_clipped(form):
    grey = np.array([[0, 257, 25700], [32896, 51400, 65535]], np.uint16)
    decoded = decode(encode(Image.fromarray(grey), form), None)
    np.testing.assert_array_equal(decoded, np.repeat(np.array([[0, 1, 100], [128, 200, 255]])[..., None], 3, axis=-1))


def test_16_bit_grey_in_big_endian_order():
    grey = Image.frombytes("I;16B", (2, 1), np.array([25700, 65535], ">u2").tobytes())
    assert decode(encode(grey, "TIFF"), None)[0, :, 0].tolist() == [100, 255]


def test_16_bit_grey_is_reduced_after_it_is_scaled():
    grey = np.full((40, 20), 25700, np.uint16)
    decoded = decode(encode(Image.fromarray(grey), "PNG"), 10)
    assert decoded.shape == (10, 5, 3)
    assert (decoded == 100).all()


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_cmyk_becomes_rgb(form):
    inks = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    np.testing.assert_allclose(decode(encode(inks, form), None), np.broadcast_to([0, 255, 255], (16, 16, 3)), atol=4)


@pytest.mark.parametrize(("mode", "colour", "expected"), [("L", 77, [77] * 3), ("1", 1, [255] * 3), ("RGB", (1, 2, 3), [1, 2, 3])])
def test_plain_modes_keep_their_colours(mode, colour, expected):
    decoded = decode(encode(Image.new(mode, (3, 2), colour)), None)
    assert decoded.dtype == np.uint8
    assert decoded.tolist() == [[expected] * 3] * 2


def test_palette_without_transparency():
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([10, 20, 30, 200, 100, 50])
    assert decode(encode(image), None).tolist() == [[[10, 20, 30], [200, 100, 50]]]


@pytest.mark.parametrize("transparency", [0, b"\x00\xff"])
def test_transparent_palette_entry_shows_white(transparency):
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 0, 255])
    assert decode(encode(image, transparency=transparency), None).tolist() == [[[255] * 3, [0, 0, 255]]]


def test_transparent_gif_shows_white():
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 0, 255])
    assert decode(encode(image, "GIF", transparency=0), None).tolist() == [[[255] * 3, [0, 0, 255]]]


@pytest.mark.parametrize(
    ("mode", "pixels"),
    [("RGBA", [[255, 0, 0, 0], [255, 0, 0, 51], [255, 0, 0, 255]]), ("LA", [[0, 0], [0, 51], [0, 255]])],
)
@pytest.mark.parametrize("form", EXACT)
def test_alpha_is_laid_on_white(mode, pixels, form):
    options = EXACT[form] | ({"exact": True} if form == "WEBP" else {})
    decoded = decode(encode(Image.fromarray(np.array([pixels], np.uint8), mode), form, **options), None)
    hidden, faint, full = decoded[0].astype(int).tolist()
    dark = [1, 2] if mode == "RGBA" else [0, 1, 2]
    assert hidden == [255] * 3
    assert all(abs(faint[channel] - 204) <= 1 and full[channel] == 0 for channel in dark)


def test_transparent_colour_of_an_rgb_png_shows_white():
    image = Image.fromarray(np.array([[[9, 8, 7], [1, 2, 3]]], np.uint8))
    assert decode(encode(image, transparency=(9, 8, 7)), None).tolist() == [[[255] * 3, [1, 2, 3]]]


@pytest.mark.parametrize(("form", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {})])
def test_animation_gives_its_first_frame(form, options):
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("red", "lime", "blue")]
    encoded = encode(frames[0], form, save_all=True, append_images=frames[1:], **options)
    assert decode(encoded, None).tolist() == [[[255, 0, 0]] * 6] * 4
    assert read_size(encoded, None) == (4, 6)


def test_jpeg_2000_and_bmp_are_read():
    for form, options in (("JPEG2000", {"irreversible": False}), ("BMP", {})):
        np.testing.assert_array_equal(decode(encode(Image.fromarray(quarters()), form, **options), None), quarters())


def broken(encoded: bytes) -> str:
    with pytest.raises(BrokenImage) as caught:
        decode(encoded, None)
    reason = str(caught.value)
    assert reason and reason.isprintable() and len(reason) <= 120
    return reason


def noise() -> Image.Image:
    return Image.fromarray(np.random.RandomState(0).randint(0, 256, (64, 64, 3), np.uint8))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "JPEG2000"])
def test_truncated_image_is_broken(form):
    encoded = encode(noise(), form)
    broken(encoded[: len(encoded) // 2])


def test_empty_file_is_broken():
    assert broken(b"") == "0 bytes"


SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"><rect width="8" height="8"/></svg>'
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize("encoded", [b"<!DOCTYPE html><html><body>404</body></html>", SVG, EPS, b"\xff\xd8\xff", b"\0" * 1000])
def test_what_is_no_photo_stays_closed(encoded):
    broken(encoded)
    with pytest.raises(BrokenImage):
        read_size(encoded, None)


@pytest.mark.parametrize("form", ["EPS", "PDF", "ICO", "TGA", "PCX"])
def test_formats_outside_the_list_are_refused_though_pillow_writes_them(form):
    assert broken(encode(Image.fromarray(quarters(16, 16)), form)) == "no image format that is read here"


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header says more than its few bytes of pixels hold."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("limit", ["as Pillow sets it", None])
@pytest.mark.parametrize("encoded", [png_of(20_000, 20_000), b"GIF89a" + struct.pack("<HH", 60_000, 60_000) + bytes(200)])
def test_decompression_bomb_is_refused_from_its_header(monkeypatch, limit, encoded):
    if limit is None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda image: pytest.fail("a bomb's pixels were asked for"))
    assert encoded[:3] == b"GIF" or broken(encoded).endswith("is too large (178,956,970 px at most)")
    broken(encoded)
    with pytest.raises(BrokenImage):
        read_size(encoded, 16)


def test_bomb_limit_holds_when_a_program_switched_pillows_off(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert broken(png_of(20_000, 20_000)) == "20000x20000 px is too large (178,956,970 px at most)"


def test_float_tiff_is_broken_rather_than_guessed():
    assert "floating-point" in broken(encode(Image.fromarray(np.full((4, 4), 0.5, np.float32)), "TIFF"))


def test_reason_is_one_short_line_whatever_the_decoder_says(monkeypatch):
    def fail(*_, **__):
        raise OSError("first\nsecond\r\n" + "x" * 500)

    monkeypatch.setattr(Image, "open", fail)
    assert broken(b"...").startswith("first second xxx")


def test_no_memory_is_not_the_images_fault(monkeypatch):
    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(MemoryError):
        decode(b"...", None)


@pytest.mark.parametrize(
    ("size", "longest", "expected"),
    [
        ((300, 200), 30, (20, 30)),
        ((200, 300), 30, (30, 20)),
        ((30, 20), 30, (20, 30)),
        ((31, 31), 30, (30, 30)),
        ((1, 1), 4, (1, 1)),
        ((1, 20_000), 64, (64, 1)),
        ((3000, 7), 64, (1, 64)),
    ],
)
@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_longest_reduces(form, size, longest, expected):
    encoded = encode(Image.new("RGB", size, (50, 100, 150)), form)
    decoded = decode(encoded, longest)
    assert decoded.shape == (*expected, 3)
    np.testing.assert_allclose(decoded, np.broadcast_to([50, 100, 150], decoded.shape), atol=3)
    assert read_size(encoded, longest) == expected


def test_longest_leaves_a_smaller_image_untouched():
    np.testing.assert_array_equal(decode(encode(noise()), 64), np.asarray(noise()))


@pytest.mark.parametrize("longest", [300, 100, 37])
def test_reduced_jpeg_shows_the_whole_image_smoothly(longest):
    across, down = np.meshgrid(np.arange(640), np.arange(480))
    photo = np.stack([across * 255 // 639, down * 255 // 479, (np.sin(across / 40) * np.cos(down / 30) * 120 + 128).astype(int)], axis=-1)
    photo = Image.fromarray(photo.astype(np.uint8))
    decoded = decode(encode(photo, "JPEG", quality=98), longest).astype(float)
    exact = np.asarray(photo.resize(decoded.shape[1::-1], Image.Resampling.BOX)).astype(float)
    assert np.abs(decoded - exact).mean() < 2


def test_turned_photo_is_reduced_by_its_longest_side():
    stored = Image.fromarray(np.ascontiguousarray(STORED[6](quarters(320, 480))))
    encoded = encode(stored, "JPEG", **FINE, exif=turned_tag(6))
    decoded = decode(encoded, 48)
    assert decoded.shape == (32, 48, 3) and read_size(encoded, 48) == (32, 48)
    for row, column in ((4, 4), (4, -4), (-4, 4), (-4, -4)):
        np.testing.assert_allclose(decoded[row, column].astype(int), quarters()[row, column].astype(int), atol=8)


@pytest.mark.parametrize("longest", [None, 16, 33])
@pytest.mark.parametrize("form", ["JPEG", "WEBP", "TIFF", "AVIF", "PNG", "GIF", "BMP", "JPEG2000"])
def test_read_size_is_what_decode_gives(form, longest):
    for size in ((1, 1), (16, 16), (17, 16), (33, 47), (101, 40)):
        # A PNG's orientation may stand behind its pixels, the other formats have none to read.
        for orientation in range(1, 9) if form in ("JPEG", "WEBP", "TIFF", "AVIF") else [1]:
            options = {"exif": turned_tag(orientation)} if form in ("JPEG", "WEBP", "TIFF", "AVIF") else {}
            options |= {"speed": 10} if form == "AVIF" else {}
            encoded = encode(Image.new("RGB", size), form, **options)
            assert read_size(encoded, longest) == decode(encoded, longest).shape[:2], (form, size, orientation)


def test_read_size_decodes_nothing(monkeypatch):
    encoded = encode(noise(), "PNG", exif=turned_tag(6))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda image: pytest.fail("the pixels were asked for"))
    assert read_size(encoded, None) == (64, 64)
