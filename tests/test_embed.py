"""Features of a data set as a Parquet file, and what is left of a run that was stopped."""

import gc
import json
import os
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch
from PIL import Image
from transformers import pipeline

from sslzoo.data import Subset, load_images
from sslzoo.encoders import build_encoder, encoder_config, features, load_pretrained, to_plain
from sslzoo.evaluation import Preprocessing, features_origin, read_origin, write_features

CPU = torch.device("cpu")
PREPROCESSING = Preprocessing(16, 16)


class Stopped(Exception):
    pass


class Counter:
    """Counts images and calls of the encoder; stops the run once `most` images are done."""

    def __init__(self, encoder, most=None):
        self.images, self.most, self.calls = [], most, 0
        self.hook = encoder.register_forward_pre_hook(self.count)

    def count(self, module, arguments):
        self.calls += 1

    def __call__(self, images):
        self.images.append(images)
        if self.most is not None and sum(self.images) >= self.most:
            raise Stopped

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.hook.remove()


def encoder(seed=0):
    torch.manual_seed(seed)
    return build_encoder(encoder_config("res6", 16)).eval()


def write(file, model, images, preprocessing=PREPROCESSING, most=None, patches=False):
    """Batches of 8: parts of 128 of the 500 images. Returns the number of rows and what was counted."""
    with Counter(model, most) as counter:
        try:
            return write_features(model, images, preprocessing, file, batch_size=8, part=128, patches=patches, done=counter), counter
        except Stopped:
            assert not file.exists(), "the file appears once it is complete"
            return None, counter


@pytest.fixture(scope="module")
def digits():
    return load_images("digits", "test", device=CPU)


@pytest.fixture(scope="module")
def uninterrupted(digits, tmp_path_factory):
    file = tmp_path_factory.mktemp("whole") / "features.parquet"
    rows, counter = write(file, encoder(), digits)
    assert rows == 500 and counter.calls == 63 and counter.images == [0, *[8] * 62, 4]
    assert [path.name for path in file.parent.iterdir()] == ["features.parquet"]
    return file.read_bytes()


def test_row_groups_are_parts_and_hold_the_features_in_order(uninterrupted, digits, tmp_path):
    (tmp_path / "features.parquet").write_bytes(uninterrupted)
    opened = parquet.ParquetFile(tmp_path / "features.parquet")
    assert [opened.metadata.row_group(index).num_rows for index in range(opened.num_row_groups)] == [128, 128, 128, 116]
    table = opened.read()
    (batch,) = digits.batches([torch.arange(500)])
    with torch.no_grad():
        expected = features(encoder(), PREPROCESSING(batch.pixels, batch.sizes))
    torch.testing.assert_close(torch.from_numpy(np.stack(table["feature"].to_numpy())), expected)
    assert table["row"].to_pylist() == list(range(500)) and table["label"].to_pylist() == batch.labels.tolist()
    assert table["name"].to_pylist()[499] == "row 499"


def test_nothing_of_a_batch_stays_in_memory(digits, tmp_path):
    """Even its few features: left between the large blocks of many batches, they made the process grow by 0.4 MiB a photo."""
    kept = []

    def count(images):
        kept.append(sum(isinstance(thing, torch.Tensor) or type(thing).__module__ == "pyarrow.lib" for thing in gc.get_objects()))

    write_features(encoder(), digits, PREPROCESSING, tmp_path / "features.parquet", batch_size=8, part=128, done=count)
    assert len(kept) == 64 and kept[16] == kept[2] > 0


def test_stopped_run_goes_on_where_it_was(uninterrupted, digits, tmp_path):
    file, model = tmp_path / "features.parquet", encoder()
    _, first = write(file, model, digits, most=300)
    assert sum(first.images) == 304 and first.calls == 38
    _, second = write(file, model, digits, most=450)
    assert second.images[0] == 256, "two parts are intact"
    rows, third = write(file, model, digits)
    assert third.images[0] == 384 and sum(third.images) == 500 and third.calls == 15 and rows == 500
    assert file.read_bytes() == uninterrupted
    assert [path.name for path in tmp_path.iterdir()] == ["features.parquet"]


def test_stop_while_the_parts_are_joined_loses_none(uninterrupted, digits, tmp_path, monkeypatch):
    file, model = tmp_path / "features.parquet", encoder()
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", lambda handle: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write(file, model, digits)
    assert not file.exists()
    _, counter = write(file, model, digits)
    assert counter.calls == 0 and counter.images == [500] and file.read_bytes() == uninterrupted


@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
def test_damaged_part_is_made_again_and_no_other(damage, uninterrupted, digits, tmp_path, caplog):
    file, model = tmp_path / "features.parquet", encoder()
    write(file, model, digits, most=450)
    part = tmp_path / ".features.parquet.parts" / "1.parquet"
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.unlink() if damage == "gone" else part.write_bytes(content if damage == "changed" else content[:-100])
    _, counter = write(file, model, digits)
    assert counter.images[0] == 256 and counter.calls == 16 + 15 and file.read_bytes() == uninterrupted
    assert [record.getMessage() for record in caplog.records] == [f"writing {part} again: it is damaged"]


@pytest.mark.parametrize("other", ["weights", "state", "architecture", "data", "preprocessing", "manifest"])
def test_parts_of_something_else_are_not_taken(other, uninterrupted, digits, tmp_path, caplog):
    file, model = tmp_path / "features.parquet", encoder()
    theirs, data, preprocessing = encoder(), digits, PREPROCESSING
    if other == "weights":
        with torch.no_grad():
            theirs.embedder.convolution.weight[0, 0, 0, 0] += 1e-3
    elif other == "state":
        theirs.embedder.normalization.running_mean += 1
    elif other == "architecture":
        theirs.config.hidden_act = "gelu"
    elif other == "data":
        data = load_images("digits", "train", device=CPU)
    elif other == "preprocessing":
        preprocessing = Preprocessing(20, 16)
    write(file, theirs, data, preprocessing, most=300)
    if other == "manifest":
        (tmp_path / ".features.parquet.parts" / "manifest.json").write_text('{"of": ')
    _, counter = write(file, model, digits)
    assert counter.images[0] == 0 and counter.calls == 63 and file.read_bytes() == uninterrupted
    assert "starting over" in caplog.text and len(caplog.records) == 1


def test_manifest_says_what_the_parts_are_of(digits, tmp_path):
    write(tmp_path / "features.parquet", encoder(), digits, most=300)
    manifest = json.loads((tmp_path / ".features.parquet.parts" / "manifest.json").read_text())
    assert manifest["of"]["data"] == ["digits", "test", digits.fingerprint, 500] and manifest["of"]["preprocessing"]["crop"] == 16
    assert len(manifest["of"]["encoder_sha256"]) == 64 and manifest["sha256"].keys() == {"0", "1"}


def test_broken_images_are_left_out_of_streamed_sets_too(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(6):
        Image.new("RGB", (16, 16), (40 * index, 0, 0)).save(folder / f"{index}.png")
    (folder / "3.png").write_bytes(b"no image")
    found = []
    for budget in (None, 0):
        file = tmp_path / "features.parquet"
        images = load_images(str(folder), "train", device=CPU, budget=budget)
        assert images.resident is (budget is None)
        assert write_features(encoder(), images, PREPROCESSING, file, batch_size=2) == 5
        found.append(parquet.read_table(file))
    resident, streamed = found
    assert resident["row"].to_pylist() == streamed["row"].to_pylist() == [0, 1, 2, 4, 5]
    assert resident["name"].to_pylist() == streamed["name"].to_pylist() and streamed["name"].to_pylist()[3].endswith("4.png")
    for ours, theirs in zip(resident["feature"].to_pylist(), streamed["feature"].to_pylist(), strict=True):
        assert np.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize(("name", "size"), [("res6", 96), ("vit-xs4", 16)])
def test_plain_pipeline_gives_the_same_features(name, size, tmp_path):
    """Of images that need no resizing, as transformers rounds the resized ones."""
    torch.manual_seed(0)
    to_plain(build_encoder(encoder_config(name, size))).save_pretrained(tmp_path)
    Preprocessing(size, size).write(tmp_path)
    pixels = torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    extract = pipeline("image-feature-extraction", model=str(tmp_path), pool=True, device="cpu")
    found = torch.tensor(extract([Image.fromarray(image.permute(1, 2, 0).numpy()) for image in pixels])).flatten(1)
    with torch.no_grad():
        expected = features(load_pretrained(tmp_path), Preprocessing.read(tmp_path)(pixels, torch.full((3, 2), size)))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (expected[0] - expected[1]).abs().max() > 1e-2


def test_a_pipeline_gives_the_features_of_an_encoder_without_a_pooler_by_the_card_s_line(tmp_path, monkeypatch):
    """That encoder's pipelines refuse to pool."""
    card = Path(__file__).parents[1] / "model_cards/ijepa-ijepa-xs4-digits/README.md"
    lines = card.read_text().split("```python\n")[1].split("```")[0].splitlines()[:5]
    torch.manual_seed(0)
    to_plain(build_encoder(encoder_config("ijepa-xs4", 16))).save_pretrained(tmp_path / "sslzoo/ijepa-ijepa-xs4-digits")
    Preprocessing(16, 16).write(tmp_path / "sslzoo/ijepa-ijepa-xs4-digits")
    pixels = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    Image.fromarray(pixels[0].permute(1, 2, 0).numpy()).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec("\n".join(lines).replace("photo.jpg", "photo.png"), names)
    with torch.no_grad():
        folder = tmp_path / "sslzoo/ijepa-ijepa-xs4-digits"
        expected = features(load_pretrained(folder), Preprocessing.read(folder)(pixels, torch.full((1, 2), 16)))
    torch.testing.assert_close(torch.tensor(names["features"]).float(), expected, rtol=1e-4, atol=1e-4)


def test_name_is_the_path_whatever_is_in_it_and_classes_have_their_names(tmp_path):
    names = ["a\u200db/two\nlines.png", "a\u200db/tab\t\x1b.png", "b\u00a0c/" + "x" * 200 + ".png", "b\u00a0c/caf\udce9.png"]
    for name in names:
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16)).save(tmp_path / "photos" / name)
    images = load_images(str(tmp_path / "photos"), "train", device=CPU)
    assert write_features(encoder(), images, PREPROCESSING, tmp_path / "features.parquet", batch_size=2) == 4
    table = parquet.read_table(tmp_path / "features.parquet")
    assert sorted(table["name"].to_pylist()) == sorted([*names[:3], "b\u00a0c/caf\\xe9.png"])
    found = dict(zip(table["name"].to_pylist(), table["label"].to_pylist(), strict=True))
    assert [found[name] for name in names[:3]] == [0, 0, 1]
    label = datasets.Features.from_arrow_schema(table.schema)["label"]
    assert label == datasets.ClassLabel(names=["a\u200db", "b\u00a0c"])
    back = [os.fsencode(name[:-8]) + b"\xe9.png" if name.endswith("\\xe9.png") else os.fsencode(name) for name in table["name"].to_pylist()]
    assert all(os.path.isfile(os.fsencode(tmp_path / "photos") + b"/" + name) for name in back)


@pytest.mark.parametrize(("name", "size", "grid"), [("vit-xs4", 16, (4, 4)), ("res6", 16, (8, 8))])
def test_patches_are_those_of_a_direct_forward_pass(name, size, grid, digits, tmp_path):
    torch.manual_seed(0)
    model = build_encoder(encoder_config(name, size)).eval()
    assert write(tmp_path / "patches.parquet", model, digits, patches=True)[0] == 500
    table = parquet.read_table(tmp_path / "patches.parquet")
    assert table.column_names == ["row", "name", "label", "grid", "feature"]
    assert table["grid"].to_pylist() == [list(grid)] * 500
    places = table["feature"].combine_chunks().flatten().flatten().to_numpy().reshape(500, *grid, -1)
    (batch,) = digits.batches([torch.arange(500)])
    with torch.no_grad():
        last = model(pixel_values=PREPROCESSING(batch.pixels, batch.sizes)).last_hidden_state
    expected = last.permute(0, 2, 3, 1) if last.ndim == 4 else last[:, 1:].unflatten(1, grid)
    torch.testing.assert_close(torch.tensor(places), expected)
    assert datasets.Dataset.from_parquet(str(tmp_path / "patches.parquet"))[499]["feature"] == table["feature"][499].as_py()


def test_patches_in_memory_are_bounded_and_go_on_where_they_were(digits, tmp_path, monkeypatch):
    """64 places of 64 numbers: 16 KiB an image, so that a part holds 10 images and not 128."""
    monkeypatch.setattr("sslzoo.evaluation.embed._PART_BYTES", 10 * 16 * 1024 + 1)
    digits = Subset(digits, torch.arange(35))
    for name, stops in (("once", []), ("twice", [20])):
        for most in stops:
            write(tmp_path / f"{name}.parquet", encoder(), digits, most=most, patches=True)
        rows, counter = write(tmp_path / f"{name}.parquet", encoder(), digits, patches=True)
        assert rows == 35 and counter.images[0] == sum(10 for _ in stops), counter.images
    group = parquet.ParquetFile(tmp_path / "once.parquet").metadata
    assert [group.row_group(index).num_rows for index in range(group.num_row_groups)] == [10, 10, 10, 5]
    assert (tmp_path / "once.parquet").read_bytes() == (tmp_path / "twice.parquet").read_bytes()


def test_features_and_patches_do_not_share_parts_and_a_file_says_what_it_is_of(digits, tmp_path, caplog):
    model, file = encoder(), tmp_path / "features.parquet"
    write(file, model, digits, most=300)
    _, counter = write(file, model, digits, patches=True, most=8)
    assert counter.images[0] == 0 and "starting over" in caplog.text
    write(file, model, digits)
    origin = features_origin(model, digits, PREPROCESSING)
    assert read_origin(file) == origin
    train = load_images("digits", "train", device=CPU)
    others = (encoder(1), digits, PREPROCESSING), (model, train, PREPROCESSING), (model, digits, Preprocessing(20, 16))
    assert origin not in [features_origin(*other) for other in others] + [features_origin(model, digits, PREPROCESSING, patches=True)]
    (tmp_path / "other.parquet").write_bytes(b"none")
    assert read_origin(tmp_path / "other.parquet") is read_origin(tmp_path / "none.parquet") is None
