"""The built-in digits are the same on every machine, and their test images are not among those to train on."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from sslzoo.data import load_images
from sslzoo.data.digits import scattered_digits
from sslzoo.errors import InputError

CPU = torch.device("cpu")
FINGERPRINTS = {
    "train": "f0a5d9f354875830874d39cd14cb17ff37c284d3af202ef3bb33ee8f0dee2dc7",
    "test": "9b582d52cbc9611b09370e5118087f03fd26d1b17ea83458400b5278feb8a3d0",
}


@pytest.mark.parametrize(("split", "count"), [("train", 1297), ("test", 500)])
def test_what_they_are(split, count):
    digits = load_images("digits", split, device=CPU)
    assert len(digits) == count and digits.resident and digits.skipped == []
    assert digits.label_names == [str(digit) for digit in range(10)] and set(digits.labels.tolist()) == set(range(10))
    assert (digits.source, digits.split, digits.name(17)) == ("digits", split, "row 17")
    batch = next(digits.batches([torch.tensor([3, 400])]))
    assert batch.pixels.shape == (2, 3, 16, 16) and batch.pixels.dtype == torch.uint8
    assert batch.samples.tolist() == [3, 400] and batch.sizes.tolist() == [[16, 16]] * 2
    assert torch.equal(batch.labels, digits.labels[[3, 400]])
    assert torch.equal(batch.pixels[:, 0], batch.pixels[:, 1]) and torch.equal(batch.pixels[:, 0], batch.pixels[:, 2])


@pytest.mark.parametrize("split", FINGERPRINTS)
def test_every_pixel_and_label_is_as_published(split):
    assert load_images("digits", split, device=CPU).fingerprint == FINGERPRINTS[split]


def test_they_neither_depend_on_the_seed_nor_change_it():
    np.random.seed(1)
    images, _ = scattered_digits("test")
    drawn = np.random.rand()
    again, _ = scattered_digits("test")
    np.testing.assert_array_equal(images, again)
    np.random.seed(1)
    assert np.random.rand() == drawn


def test_train_and_test_share_the_scans_without_one_in_both():
    (train, train_labels), (test, test_labels) = scattered_digits("train"), scattered_digits("test")
    seen = {image.tobytes() for image in train}
    assert len(seen) == 1297 and not any(image.tobytes() in seen for image in test)
    assert np.bincount(np.concatenate([train_labels, test_labels])).tolist() == np.bincount(load_digits().target).tolist()


def test_digits_are_scattered_and_whole():
    images = scattered_digits("train")[0][..., 0].astype(float)
    weight = images.sum(axis=(1, 2))
    down, across = (np.einsum(f"nhw,{axis}->n", images, np.arange(16)) / weight for axis in "hw")
    assert min(down.std(), across.std()) > 1 and abs(down.mean() - 7.5) < 0.5 and abs(across.mean() - 7.5) < 0.5
    # Each scan is enlarged 1 to 1.5 times: its ink covers 1 to 2.25 times the area, and none of it falls off the canvas.
    scans = load_digits()
    order = np.random.RandomState(0).permutation(len(scans.images))[:1297]
    growth = weight / (scans.images[order].sum(axis=(1, 2)) * 255 / 16)
    assert 0.95 < growth.min() < 1.1 and 2.1 < growth.max() < 2.35


def test_labels_belong_to_the_images():
    (train, train_labels), (test, test_labels) = scattered_digits("train"), scattered_digits("test")
    flat, wanted = train.reshape(len(train), -1).astype(np.float32), test.reshape(len(test), -1).astype(np.float32)
    distances = (wanted**2).sum(1)[:, None] - 2 * wanted @ flat.T + (flat**2).sum(1)
    assert 0.5 < (train_labels[distances.argmin(axis=1)] == test_labels).mean() < 0.8


@pytest.mark.parametrize("split", ["tests", "validation", "all"])
def test_split_that_is_not_there(split):
    with pytest.raises(InputError, match=f"unknown split '{split}'"):
        load_images("digits", split, device=CPU)
