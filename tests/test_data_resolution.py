"""What is kept of a large image: enough for whoever looks at it, and no more memory than that."""

import io
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from sslzoo.data import RequiredResolution, load_images
from sslzoo.data.decode import decode, read_size
from sslzoo.data.memory import PixelSemaphore
from sslzoo.data.resolution import plan
from sslzoo.encoders import build_encoder, encoder_config, to_plain
from sslzoo.evaluation import Preprocessing, required_resolution
from sslzoo.views import View

CPU = torch.device("cpu")
LARGE = [(4000, 3000), (3000, 4000), (3024, 4032), (1601, 1203)]
SIZES = [(801, 603), (845, 563), (1000, 350), (350, 1300), (30_000, 20), (20, 30_001), (60_000, 1)]


def encode(pixels: np.ndarray, form: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, form, **options)
    return stream.getvalue()


def smooth(width: int, height: int) -> np.ndarray:
    """Colours that change over the whole image: two px of a shift are seen."""
    across, down = np.arange(width) / width, np.arange(height) / height
    waves = [np.sin(9 * across[None] + channel) * np.cos(7 * down[:, None]) for channel in range(3)]
    return (128 + 120 * np.stack(waves, axis=2)).astype(np.uint8)


@pytest.mark.parametrize("size", [(256, 256), (512, 256), (100, 512), (16, 16), (1, 512)])
def test_small_images_stay_as_they_are(size):
    assert plan(size, None, RequiredResolution(32, 8)) == ((0, 0, *size), size)


@pytest.mark.parametrize("size", [*LARGE, *SIZES])
@pytest.mark.parametrize("resolution", [RequiredResolution(256, 4), RequiredResolution(224, 4, squash=True), RequiredResolution(16, 16)])
def test_no_side_is_longer_than_the_bound_whatever_the_shape(size, resolution):
    box, kept = plan(size, None, resolution)
    side = resolution.short * resolution.times
    assert min(kept) <= side and max(kept) <= 2.5 * side
    assert 0 <= box[0] < box[2] <= size[0] and 0 <= box[1] < box[3] <= size[1]
    assert abs(box[0] - (size[0] - box[2])) <= 1 and abs(box[1] - (size[1] - box[3])) <= 1, "the middle"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("resize", "crop"), [(32, 32), (64, 56)])
def test_evaluation_sees_the_same_centre(size, resize, crop):
    pixels, preprocessing = smooth(*size), Preprocessing(resize, crop, mean=(0, 0, 0), std=(1 / 255,) * 3)
    encoded, seen = encode(pixels, compress_level=1), []
    for resolution in (None, RequiredResolution(resize, 4)):
        decoded = decode(encoded, None, resolution)
        assert read_size(encoded, None, resolution) == decoded.shape[:2]
        seen.append(preprocessing(torch.from_numpy(decoded.copy()).permute(2, 0, 1)[None], torch.tensor([decoded.shape[:2]])))
    assert (seen[0] - seen[1]).abs().max() <= 1.01


def test_evaluation_that_squashes_sees_the_whole_panorama():
    preprocessing = Preprocessing(32, 32, mean=(0, 0, 0), std=(1 / 255,) * 3, squash=True)
    seen = []
    for resolution in (None, required_resolution(preprocessing)):
        decoded = decode(encode(smooth(9000, 20)), None, resolution)
        seen.append(preprocessing(torch.from_numpy(decoded.copy()).permute(2, 0, 1)[None], torch.tensor([decoded.shape[:2]])))
    assert decoded.shape[1] <= 512 and (seen[0] - seen[1]).abs().max() <= 3


def test_photo_is_seen_nearly_as_without_reducing():
    random = np.random.RandomState(0)
    photo = Image.fromarray(random.randint(0, 256, (300, 400, 3), np.uint8)).resize((1600, 1200), Image.Resampling.BICUBIC)
    encoded, seen = encode(np.asarray(photo), "JPEG", quality=95), []
    preprocessing = Preprocessing(64, 56, mean=(0, 0, 0), std=(1 / 255,) * 3)
    for resolution in (None, RequiredResolution(64, 4)):
        decoded = decode(encoded, None, resolution)
        seen.append(preprocessing(torch.from_numpy(decoded.copy()).permute(2, 0, 1)[None], torch.tensor([decoded.shape[:2]])))
    difference = (seen[0] - seen[1]).abs()
    assert decoded.shape[0] == 256 and difference.mean() < 0.4 and (difference > 1.01).double().mean() < 0.05


def test_as_much_as_preprocessing_and_views_can_use():
    assert required_resolution(Preprocessing(256, 224)) == RequiredResolution(256, 4)
    assert required_resolution(Preprocessing(16, 16)) == RequiredResolution(16, 16), "256 px are always kept"
    assert required_resolution(Preprocessing(224, 224), [View(224, scale=(0.01, 1.0)), View(900, count=0)]) == RequiredResolution(224, 10)
    assert required_resolution(Preprocessing(224, 224, squash=True)).squash


@pytest.mark.parametrize("budget", [2**30, 0], ids=["resident", "streamed"])
def test_sets_of_both_kinds_keep_the_same(tmp_path, budget):
    for index, size in enumerate([(300, 200), (40, 30), (9, 900), (900, 9)]):
        Image.fromarray(smooth(*size)).save(tmp_path / f"{index}.png")
    images = load_images(str(tmp_path), "train", device=CPU, budget=budget, resolution=RequiredResolution(16, 4))
    assert images.resident == bool(budget)
    batch = next(images.batches([torch.arange(4)]))
    assert batch.sizes.tolist() == [[64, 96], [30, 40], [144, 9], [9, 144]]
    for row in range(4):
        height, width = batch.sizes[row].tolist()
        expected = decode((tmp_path / f"{row}.png").read_bytes(), None, RequiredResolution(16, 4))
        np.testing.assert_array_equal(batch.pixels[row, :, :height, :width].permute(1, 2, 0), expected)


def test_room_is_shared_and_what_is_too_large_for_it_waits_to_be_alone():
    import threading

    semaphore, alone = PixelSemaphore(10), threading.Event()

    def large():
        with semaphore.acquired(100):
            alone.set()

    with semaphore.acquired(4), semaphore.acquired(6):
        waiting = threading.Thread(target=large)
        waiting.start()
        assert not alone.wait(0.05)
    assert alone.wait(10)
    waiting.join()
    with semaphore.acquired(10):
        pass


EMBED = """
import sys
from pathlib import Path
import torch
from sslzoo.inference import embed
from sslzoo.memory import peak_memory
cpu = torch.device("cpu")
before = peak_memory(cpu)
count = embed(sys.argv[1], sys.argv[2], Path(sys.argv[3]), cpu=True)
print(count, before, peak_memory(cpu))
"""


@pytest.mark.slow
def test_photos_and_panoramas_take_little_memory(tmp_path):
    torch.manual_seed(0)
    to_plain(build_encoder(encoder_config("res6", 64))).save_pretrained(tmp_path / "model")
    Preprocessing(64, 56).write(tmp_path / "model")
    photos = tmp_path / "photos"
    photos.mkdir()
    (tmp_path / "one").write_bytes(encode(smooth(4000, 3000), "JPEG"))
    (tmp_path / "other").write_bytes(encode(smooth(3000, 4000), "JPEG"))
    for index in range(46):
        os.link(tmp_path / ("one" if index % 2 else "other"), photos / f"{index:03}.jpg")
    for index, size in enumerate([(30_000, 20), (20, 30_000), (60_000, 1), (1, 60_000)]):
        Image.fromarray(smooth(*size)).save(photos / f"panorama{index}.png")
    ran = subprocess.run(
        [sys.executable, "-c", EMBED, tmp_path / "model", photos, tmp_path / "features.parquet"], capture_output=True, text=True, check=True
    )
    count, before, most = map(int, ran.stdout.split())
    assert count == 50 and 0 < most - before < 600 * 2**20 and most < 1.5 * 2**30
