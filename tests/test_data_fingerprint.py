"""The fingerprint names the content: the same from anywhere, another one for anything that changed."""

import os
import shutil

import datasets
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from sslzoo.data import fingerprint, load_images

CPU = torch.device("cpu")
CLASSES = ["ant", "bee"]


@pytest.fixture
def encoded(tmp_path):
    """Six images that Pillow also reads with bytes behind their end."""
    images = []
    for shade in range(6):
        Image.new("RGB", (4, 4), (shade, shade, shade)).save(tmp_path / "one.png")
        images.append((tmp_path / "one.png").read_bytes() + b"end")
    return images


@pytest.fixture
def of(tmp_path):
    """The fingerprint of images and labels as a Parquet file."""

    def of(images, labels, shard=100, **options):
        rows = {"image": [None if image is None else {"bytes": image, "path": None} for image in images], "label": labels}
        features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=CLASSES))
        table = datasets.Dataset.from_dict(rows, features=features).data.table
        shutil.rmtree(tmp_path / "set", ignore_errors=True)
        (tmp_path / "set").mkdir()
        for number, first in enumerate(range(0, len(images), shard)):
            parquet.write_table(table.slice(first, shard), tmp_path / "set" / f"train-{number}.parquet", row_group_size=2)
        return load_images(str(tmp_path / "set"), "train", device=CPU, **options).fingerprint

    return of


LABELS = [0, 0, 1, 1, 0, 1]


def folder_of(place, images, labels):
    for row, (image, label) in enumerate(zip(images, labels, strict=True)):
        file = place / CLASSES[label] / f"{row}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(image)
    return str(place)


def test_same_content_from_another_place_in_other_files_held_in_another_way(of, encoded, tmp_path):
    labels = sorted(LABELS)
    first = of(encoded, labels)
    assert len(first) == 64 and int(first, 16)
    assert of(encoded, labels, shard=2) == of(encoded, labels, shard=1) == first
    assert of(encoded, labels, budget=0) == of(encoded, labels, canvas=2) == first
    for name in ("here", "some/where else"):
        assert load_images(folder_of(tmp_path / name, encoded, labels), "train", device=CPU).fingerprint == first


def test_one_changed_byte_anywhere(of, encoded):
    first = of(encoded, LABELS)
    for row in range(6):
        changed = list(encoded)
        changed[row] = encoded[row][:-1] + b"X"
        assert of(changed, LABELS) != first


def test_changed_file_in_a_folder(encoded, tmp_path):
    place = folder_of(tmp_path / "here", encoded, LABELS)
    first = load_images(place, "train", device=CPU).fingerprint
    (tmp_path / "here" / "ant" / "0.png").write_bytes(encoded[0][:-1] + b"X")
    assert load_images(place, "train", device=CPU).fingerprint != first


def test_label_order_and_number(of, encoded):
    seen = {
        of(encoded, LABELS),
        of(encoded, [1, *LABELS[1:]]),
        of(encoded, [-1] * 6),
        of(encoded[::-1], LABELS[::-1]),
        of([encoded[1], encoded[0], *encoded[2:]], LABELS),
        of(encoded[:5], LABELS[:5]),
        of([*encoded, encoded[5]], [*LABELS, 1]),
        of([encoded[0][:-1], encoded[0][-1:] + encoded[1], *encoded[2:]], [0, *LABELS[1:]]),
        of([*encoded[:5], None], LABELS),
        of([*encoded[:5], b""], LABELS),
    }
    assert len(seen) == 10


def test_above_the_limit_only_some_rows_are_read_but_every_length_counts(of, encoded, monkeypatch):
    in_full = of(encoded, LABELS)
    monkeypatch.setattr(fingerprint, "_MAX_BYTES", sum(map(len, encoded)))
    assert of(encoded, LABELS) == in_full
    monkeypatch.setattr(fingerprint, "_MAX_BYTES", sum(map(len, encoded)) - 1)
    monkeypatch.setattr(fingerprint, "_SAMPLE", 3)  # rows 0, 2 and 5
    first = of(encoded, LABELS)
    assert first != in_full

    def changed(row, end):
        images = list(encoded)
        images[row] = images[row][:-1] + end
        return of(images, LABELS)

    assert [row for row in range(6) if changed(row, b"X") != first] == [0, 2, 5]
    assert all(changed(row, b"dX") != first for row in range(6))


def test_of_very_many_small_files_only_some_are_opened(encoded, tmp_path, monkeypatch):
    place = folder_of(tmp_path / "here", encoded, sorted(LABELS))
    monkeypatch.setattr(fingerprint, "_SAMPLE", 3)  # rows 0, 2 and 5
    monkeypatch.setattr(fingerprint, "_MAX_ROWS", 6)
    in_full = load_images(place, "train", device=CPU).fingerprint
    monkeypatch.setattr(fingerprint, "_MAX_ROWS", 5)
    first = load_images(place, "train", device=CPU).fingerprint
    assert first != in_full

    def changed(row, end):
        file = tmp_path / "here" / CLASSES[sorted(LABELS)[row]] / f"{row}.png"
        content = file.read_bytes()
        file.write_bytes(content[:-1] + end)
        found = load_images(place, "train", device=CPU).fingerprint != first
        file.write_bytes(content)
        return found

    assert [row for row in range(6) if changed(row, b"X")] == [0, 2, 5] and all(changed(row, b"XX") for row in range(6))


def test_names_and_times_do_not_count_as_a_copy_has_others(encoded, tmp_path):
    place = folder_of(tmp_path / "here", encoded, sorted(LABELS))
    first = load_images(place, "train", device=CPU).fingerprint
    os.rename(tmp_path / "here" / "ant", tmp_path / "here" / "aardvark")
    os.utime(tmp_path / "here" / "bee" / "5.png", (1, 1))
    assert load_images(place, "train", device=CPU).fingerprint == first
