"""Counting test images that are training images too."""

import numpy as np
import pytest
import torch
from PIL import Image

from sslzoo.data import load_images
from sslzoo.evaluation.train_test_overlap import HashedImages, count_overlap

CPU = torch.device("cpu")


@pytest.fixture
def images():
    """Eight noisy images of different sizes."""
    random = np.random.RandomState(0)
    return [random.randint(0, 256, (20 + 3 * index, 24 + 5 * index % 17, 3)).astype(np.uint8) for index in range(8)]


def split(folder, images, **arguments):
    """Of PNG files, one an image."""
    folder.mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{index:03}.png")
    return HashedImages(load_images(str(folder), "train", device=CPU, **arguments))


def changed(image):
    other = image.copy()
    other[3, 5, 1] ^= 1
    return other


def swapped(image):
    other = image.copy()
    other[3, 5], other[4, 6] = image[4, 6], image[3, 5]
    return other


ALTERED = {
    "one value of one pixel": changed,
    "two pixels swapped": swapped,
    "flipped": lambda image: image[:, ::-1].copy(),
    "upside down": lambda image: image[::-1].copy(),
    "transposed": lambda image: image.transpose(1, 0, 2).copy(),
    "channels swapped": lambda image: image[:, :, ::-1].copy(),
    "a row less": lambda image: image[:-1].copy(),
    "a black row more": lambda image: np.pad(image, ((0, 1), (0, 0), (0, 0))),
    "a black column more": lambda image: np.pad(image, ((0, 0), (0, 1), (0, 0))),
}


class TestCountOverlap:
    @pytest.mark.parametrize("budgets", [(None, None), (None, 0), (0, None), (0, 0)], ids=str)
    def test_counts_test_images_that_are_training_images_too(self, tmp_path, images, budgets):
        train = split(tmp_path / "train", images[:5], budget=budgets[0])
        test = split(tmp_path / "test", [images[6], images[1], images[7], images[4]], budget=budgets[1])
        assert (train.resident, test.resident) == tuple(budget is None for budget in budgets)
        assert count_overlap(train, test) == 2

    def test_each_test_image_counts_once(self, tmp_path, images):
        train, test = split(tmp_path / "train", [images[0], images[0], images[1]]), split(tmp_path / "test", [images[0]] * 3 + [images[2]])
        assert count_overlap(train, test) == 3
        assert count_overlap(test, train) == 2

    @pytest.mark.parametrize("how", ALTERED)
    def test_an_altered_image_is_another(self, tmp_path, images, how):
        train, test = split(tmp_path / "train", images[:3]), split(tmp_path / "test", [ALTERED[how](images[1]), images[2]])
        assert count_overlap(train, test) == 1

    def test_black_images_of_different_sizes_differ(self, tmp_path):
        black = [np.zeros((*size, 3), np.uint8) for size in ((8, 9), (9, 8), (8, 8))]
        assert count_overlap(split(tmp_path / "train", black[:2]), split(tmp_path / "test", [black[2], black[0]])) == 1

    def test_whatever_the_batches_and_however_much_fits(self, tmp_path, images, monkeypatch):
        train, test = (split(tmp_path / name, images, budget=0) for name in ("train", "test"))
        monkeypatch.setattr("sslzoo.evaluation.train_test_overlap._BATCH", 3)
        assert count_overlap(train, test) == 8
        monkeypatch.setattr("sslzoo.evaluation.train_test_overlap._PRODUCTS", 1)
        assert count_overlap(train, HashedImages(test)) == 8, "the same hashes, image by image"

    def test_the_digits_repeat_none(self):
        train, test = (HashedImages(load_images("digits", split, device=CPU)) for split in ("train", "test"))
        assert count_overlap(train, test) == 0 and count_overlap(train, train) == len(train)
