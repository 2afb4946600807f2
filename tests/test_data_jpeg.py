"""A JPEG's pixels and verdict are Pillow's, whichever library decodes it."""

import io

import numpy as np
import pyarrow
import pytest
from PIL import Image, ImageFile

from sslzoo.data.decode import BrokenImage, decode

SIZES = [(1, 1), (7, 9), (16, 16), (17, 33), (33, 17), (101, 40), (3, 77)]


@pytest.fixture(autouse=True)
def room_for_many_restart_markers(monkeypatch):
    monkeypatch.setattr(ImageFile, "MAXBLOCK", 2**20)


def photo(height: int, width: int, mode: str = "RGB", form: str = "JPEG", **options) -> bytes:
    random = np.random.RandomState(height * 1000 + width)
    coarse = random.randint(0, 256, (height // 5 + 2, width // 5 + 2, len(Image.new(mode, (1, 1)).getbands())), np.uint8)
    image = Image.fromarray(coarse.squeeze(), mode).resize((width, height), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def by_pillow(encoded: bytes) -> np.ndarray | None:
    """None for a file that Pillow refuses."""
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return np.asarray(image.convert("RGB"))
    except Exception:
        return None


def by_sslzoo(encoded) -> np.ndarray | None:
    try:
        return decode(encoded, None)
    except BrokenImage:
        return None


def assert_equal(encoded: bytes) -> None:
    expected, found = by_pillow(encoded), by_sslzoo(encoded)
    assert (expected is None) == (found is None)
    if expected is not None:
        np.testing.assert_array_equal(found, expected)


@pytest.fixture
def without_pillows_pixels(monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("Pillow decoded it"))


RGB = [
    {"subsampling": subsampling, "progressive": progressive, "quality": quality, **markers}
    for subsampling in ("4:4:4", "4:2:2", "4:2:0")
    for progressive in (False, True)
    for quality in (20, 90)
    for markers in ({}, {"restart_marker_blocks": 1})
]
KINDS = [("RGB", options) for options in [*RGB, {"subsampling": "4:4:4", "keep_rgb": True}]]
KINDS += [(mode, {"progressive": progressive}) for mode in ("L", "CMYK") for progressive in (False, True)]


@pytest.mark.parametrize(("mode", "options"), KINDS)
def test_pixels_equal_pillows_bit_for_bit(mode, options):
    for size in SIZES:
        assert_equal(photo(*size, mode, **options))


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("hold", [bytes, memoryview, pyarrow.py_buffer])
def test_whole_upright_jpeg_is_not_decoded_by_pillow(mode, hold, without_pillows_pixels):
    assert decode(hold(photo(40, 50, mode)), None).shape == (40, 50, 3)


def test_first_image_of_a_camera_with_several_is_not_decoded_by_pillow(without_pillows_pixels):
    second = Image.new("RGB", (50, 40))
    assert decode(photo(40, 50, form="MPO", save_all=True, append_images=[second]), None).any()


@pytest.mark.parametrize("orientation", [1, 6, 9])
def test_turned_jpeg_shows_pillows_pixels(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    expected = by_pillow(photo(41, 50))
    found = decode(photo(41, 50, exif=tags), None)
    np.testing.assert_array_equal(found, np.rot90(expected, -1) if orientation == 6 else expected)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 1}])
def test_truncated_file_has_pillows_verdict(options):
    encoded = photo(40, 50, **options)
    assert by_sslzoo(encoded[: len(encoded) // 2]) is None
    for length in range(2, len(encoded), 5):
        assert_equal(encoded[:length])


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 1}])
def test_damaged_file_has_pillows_verdict_and_pixels(options):
    encoded, random = photo(40, 50, **options), np.random.RandomState(0)
    readable = 0
    for _ in range(300):
        damaged = bytearray(encoded)
        # Behind the tables of the header, where damage is often tolerated.
        damaged[random.randint(600, len(damaged))] = random.choice([0, 0xD0, 0xD9, 0xFF, random.randint(256)])
        assert_equal(bytes(damaged))
        readable += by_sslzoo(bytes(damaged)) is not None
    assert readable > 0


def test_damage_that_pillow_tolerates_is_no_reason_to_refuse():
    encoded = photo(40, 50, restart_marker_blocks=1)
    marker = encoded.index(b"\xff\xd3")
    assert_equal(encoded[: marker - 2] + encoded[marker:])
    assert by_sslzoo(encoded[: marker - 2] + encoded[marker:]) is not None


def test_bytes_behind_the_image_do_not_matter():
    encoded = photo(40, 50)
    np.testing.assert_array_equal(decode(encoded + bytes(1000) + encoded, None), decode(encoded, None))
