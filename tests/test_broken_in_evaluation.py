"""Numbers of a set do not depend on free memory: broken images are left out of streamed sets as of resident ones."""

import dataclasses
import io
import tempfile

import numpy as np
import pyarrow
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from sslzoo.accelerator import make_accelerator
from sslzoo.data import load_images, streamed
from sslzoo.data.decode_row import decode_row
from sslzoo.encoders import build_encoder, encoder_config
from sslzoo.evaluation import PROTOCOLS, Preprocessing, data_facts, extract, make_data, quiet_session

CPU = torch.device("cpu")
PREPROCESSING = Preprocessing(16, 16)
BROKEN = {"train": (2, 3, 299), "test": (4,)}
COUNTS = {"train": 320, "test": 60}
RESIDENT, STREAMED = 2**30, 0


def write(folder: str, split: str) -> None:
    """Noisy images of three colours; test image 7 is a training image too. An image behind a broken one is of another class."""
    random = np.random.RandomState(len(split))
    rows = []
    for row in range(COUNTS[split]):
        pixels = random.randint(0, 90, (16, 16, 3))
        pixels[:, :, row % 3] += 60
        if (split, row) == ("test", 7) or (split, row) == ("train", 30):
            pixels = np.arange(16 * 16 * 3).reshape(16, 16, 3) % 256
        stream = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(stream, "PNG")
        rows.append(b"<html>" if row in BROKEN[split] else stream.getvalue())
    labels = [None if row == 9 else f"class {row % 3}" for row in range(COUNTS[split])]
    parquet.write_table(pyarrow.table({"image": rows, "label": labels}), f"{folder}/{split}.parquet")


def data_in(folder: str, budget: int):
    train, test = (load_images(folder, split, device=CPU, budget=budget) for split in ("train", "test"))
    assert train.resident == test.resident == (budget == RESIDENT)
    return make_data(train, test, PREPROCESSING)


def small_encoder():
    torch.manual_seed(0)
    return build_encoder(encoder_config("res6", 16))


def features_with_broken():
    """Features and labels of both kinds of set, a batch of 16 at a time."""
    with tempfile.TemporaryDirectory() as folder:
        for split in COUNTS:
            write(folder, split)
        return {budget: extract(small_encoder(), data_in(folder, budget).train, PREPROCESSING, 16) for budget in (RESIDENT, STREAMED)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("set"))
    for split in COUNTS:
        write(folder, split)
    return folder


def test_features_are_those_of_the_images_that_can_be_decoded(folder):
    for budget in (RESIDENT, STREAMED):
        features, labels = extract(small_encoder(), data_in(folder, budget).test, PREPROCESSING)
        assert len(features) == 58 and labels.tolist() == [row % 3 for row in range(60) if row not in (4, 9)]
        if budget == RESIDENT:
            expected = features
    assert torch.equal(features, expected)


SHORT = {"knn-instdisc-v2": {}, "linear-features-v1": {"epochs": 3}, "linear-simclr-v1": {"epochs": 2}, "finetune-simclr-v1": {"epochs": 2}}


@pytest.mark.parametrize("name", SHORT)
def test_numbers_of_resident_and_streamed_sets_are_equal(folder, name):
    protocol, found = dataclasses.replace(PROTOCOLS[name], **SHORT[name]), []
    for budget in (RESIDENT, STREAMED):
        found.append(protocol.measure(small_encoder(), data_in(folder, budget), quiet_session(make_accelerator("fp32", cpu=True), 0)))
    assert found[0] == found[1]
    assert all(abs(number.value * 58 - round(number.value * 58)) < 1e-5 for number in found[0]), "shares of 58 images"


@pytest.mark.parametrize("name", SHORT)
def test_facts_decode_nothing_that_was_read_before(folder, name, monkeypatch):
    """kNN and linear probing on features read every image once. Classifiers first find the broken ones, then decode each crop's image."""
    protocol, data = dataclasses.replace(PROTOCOLS[name], **SHORT[name]), data_in(folder, STREAMED)
    decoded = []
    monkeypatch.setattr(streamed, "decode_row", lambda *how: decoded.append(0) or decode_row(*how))
    protocol.measure(small_encoder(), data, quiet_session(make_accelerator("fp32", cpu=True), 0))
    if name in ("knn-instdisc-v2", "linear-features-v1"):
        assert len(decoded) == len(data.train) + len(data.test)
    decoded.clear()
    facts = data_facts(data)
    assert not decoded and facts["test_images_in_train"] == 1 and facts["train_images"] == 316


def test_facts_count_what_was_measured_on(folder):
    facts = [data_facts(data_in(folder, budget)) for budget in (RESIDENT, STREAMED)]
    assert facts[0] == facts[1]
    counted = {key: facts[0][key] for key in ("train_images", "test_images", "skipped", "test_images_in_train", "classes")}
    assert counted == {"train_images": 316, "test_images": 58, "skipped": 4, "test_images_in_train": 1, "classes": 3}
