"""What the user calls a data set is found, with its splits, images and labels; what is wrong is said in one line."""

import os
import re
import shutil
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pytest
import torch
from data_sets import CPU, load, names, refused, shades
from PIL import Image
from pyarrow import parquet

from sslzoo.data import hub_id, load_images, source_name
from sslzoo.data.names import utf8_path


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "pictures"


def save(path, shade=0):
    """One image file; `shade` tells the images apart."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (3, 2), (shade, shade, shade)).save(path)
    return path.read_bytes()


class TestFolder:
    def test_without_classes_has_no_labels_and_keeps_the_order_of_names(self, folder):
        for shade, name in enumerate(["b.png", "a.png", "c.PNG"]):
            save(folder / name, shade)
        images = load(folder)
        assert shades(images) == [1, 0, 2] and names(images) == ["a.png", "b.png", "c.PNG"]
        assert images.labels is None and images.label_names is None
        assert next(images.batches([torch.tensor([0])])).labels is None

    def test_class_folders_are_labels_in_the_order_of_names(self, folder):
        for shade, name in enumerate(["dog/0.png", "cat/1.png", "cat/0.png", "emu/0.png"]):
            save(folder / name, shade)
        images = load(folder)
        assert images.label_names == ["cat", "dog", "emu"]
        assert images.labels.tolist() == [0, 0, 1, 2] and images.labels.dtype == torch.int64
        assert shades(images) == [2, 1, 0, 3] and names(images) == ["cat/0.png", "cat/1.png", "dog/0.png", "emu/0.png"]
        assert (images.source, images.split) == (str(folder), "train")

    @pytest.mark.parametrize("names", [("train", "test"), ("val",), ("training", "validation"), ("train", "dev", "eval")])
    def test_split_folders_are_splits_and_never_classes(self, folder, names):
        for shade, name in enumerate(names):
            for number in range(2):
                save(folder / name / f"{number}.png", 10 * shade + number)
        for shade, name in enumerate(names):
            images = load(folder, name)
            assert shades(images) == [10 * shade, 10 * shade + 1]
            assert images.labels is None and images.label_names is None

    @pytest.mark.parametrize("in_test", [["bee"], ["ant", "cow"], ["cow"]])
    @pytest.mark.parametrize("in_train", [["ant", "bee", "cow"], ["bee", "cow"]])
    def test_class_missing_from_one_split_does_not_shift_the_numbers(self, folder, in_train, in_test):
        for split, classes in (("train", in_train), ("test", in_test)):
            for name in classes:
                save(folder / split / name / "0.png")
        every = sorted({*in_train, *in_test})
        for split, classes in (("train", in_train), ("test", in_test)):
            images = load(folder, split)
            assert images.label_names == every
            assert images.labels.tolist() == [every.index(name) for name in classes]

    def test_split_without_classes_takes_none_from_the_others(self, folder):
        for name in ("train/ant/0.png", "train/bee/0.png", "test/0.png", "test/1.png"):
            save(folder / name)
        test = load(folder, "test")
        assert len(test) == 2 and test.labels is None
        assert load(folder).label_names == ["ant", "bee"]

    @pytest.mark.parametrize("name", ["train", "test", "dev"])
    def test_a_class_may_be_called_like_a_split(self, folder, name):
        for shade, one in enumerate(sorted(["car", "plane", name])):
            save(folder / one / "0.png", shade)
        images = load(folder)
        assert images.label_names == sorted(["car", "plane", name])
        assert shades(images) == images.labels.tolist() == [0, 1, 2]

    def test_classes_below_train_may_be_called_train(self, folder):
        for name in ("train/train/0.png", "train/plane/0.png", "test/train/0.png"):
            save(folder / name)
        assert load(folder, "test").labels.tolist() == [1]
        assert load(folder).label_names == ["plane", "train"]

    def test_images_beside_folders_of_images_are_not_a_class(self, folder):
        for name in ("0.png", "cat/0.png", "dog/0.png"):
            save(folder / name)
        images = load(folder)
        assert len(images) == 3 and images.labels is None

    def test_hidden_folders_do_not_count(self, folder):
        for name in ("test/0.png", "test/1.png", "test/.thumbnails/0.png", ".cache/huggingface/0.png"):
            save(folder / name)
        images = load(folder, "test")
        assert len(images) == 2 and images.labels is None
        assert refused(folder, "train") == "unknown split 'train': choose from: test"

    def test_hidden_folders_in_classes_do_not_count(self, folder):
        for name in ("cat/0.png", "cat/.thumbnails/0.png", "dog/0.png", "dog/__MACOSX/0.png"):
            save(folder / name)
        assert load(folder).labels.tolist() == [0, 1]

    def test_metadata_file_adds_columns(self, folder):
        for shade in range(3):
            save(folder / f"{shade}.png", shade)
        (folder / "metadata.csv").write_text("file_name,kind\n2.png,5\n0.png,3\n")
        images = load(folder, label_column="kind")
        assert shades(images) == [2, 0] and images.labels.tolist() == [1, 0] and images.label_names == ["3", "5"]

    def test_names_of_files_and_folders_that_mean_something_in_a_pattern(self, tmp_path):
        folder = tmp_path / "my [old] pictures *"
        for name in ("tr?in/0.png", "ünïcode 图/[1].png"):
            save(folder / name)
        images = load(folder)
        assert names(images) == ["tr?in/0.png", "ünïcode 图/[1].png"] and images.labels.tolist() == [0, 1]

    def test_files_that_are_no_images_are_not_rows(self, folder):
        save(folder / "0.png")
        (folder / "notes.txt").write_text("not an image")
        assert len(load(folder)) == 1

    def test_added_image_is_seen_at_the_next_load(self, folder):
        save(folder / "0.png")
        assert len(load(folder)) == 1
        save(folder / "1.png")
        assert len(load(folder)) == 2

    def test_the_network_is_not_asked(self, folder, monkeypatch):
        asked = []
        monkeypatch.setattr("datasets.load.get_session", lambda: asked.append("a session"))
        monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("datasets.config.HF_UPDATE_DOWNLOAD_COUNTS", True)
        save(folder / "0.png")
        load(folder)
        assert asked == [] and datasets.config.HF_UPDATE_DOWNLOAD_COUNTS is True

    def test_relative_path_and_home(self, folder, monkeypatch):
        save(folder / "0.png")
        monkeypatch.chdir(folder.parent)
        monkeypatch.setenv("HOME", str(folder.parent))
        for source in ("pictures", "./pictures", "~/pictures"):
            assert len(load(source)) == 1


class TestParquet:
    @pytest.fixture
    def table(self, tmp_path):
        def table(shades, labels=None, **features):
            rows = {"image": [{"bytes": save(tmp_path / "one.png", shade), "path": f"{shade}.png"} for shade in shades]}
            features = {"image": datasets.Image()} | features
            if labels is not None:
                rows["label"] = labels
                features.setdefault("label", datasets.ClassLabel(names=["ant", "bee", "cow"]))
            return datasets.Dataset.from_dict(rows, features=datasets.Features(features))

        return table

    def test_file_is_the_split_of_its_name(self, tmp_path, table):
        file = tmp_path / "test.parquet"
        table([4, 9], [2, 0]).to_parquet(file)
        images = load(file, "test")
        assert shades(images) == [4, 9] and images.labels.tolist() == [2, 0] and images.label_names == ["ant", "bee", "cow"]
        assert names(images) == ["4.png", "9.png"]
        assert refused(file, "train") == "unknown split 'train': choose from: test"

    @pytest.mark.parametrize("below", ["", "data"])
    def test_folder_has_the_splits_of_its_files_names_with_shards_in_order(self, folder, table, below):
        (folder / below).mkdir(parents=True)
        for name, shade in (("train-00001-of-00002", 2), ("train-00000-of-00002", 1), ("test", 3), ("validation-00000-of-00001", 4)):
            table([shade]).to_parquet(folder / below / f"{name}.parquet")
        for split, expected in (("train", [1, 2]), ("test", [3]), ("validation", [4])):
            assert shades(load(folder, split)) == expected
        assert refused(folder, "trian") == "unknown split 'trian': did you mean 'train'?"

    def test_name_of_the_folder_may_mean_something_in_a_pattern(self, tmp_path, table):
        folder = tmp_path / "set[1]*"
        folder.mkdir()
        table([7]).to_parquet(folder / "train.parquet")
        assert shades(load(folder)) == [7]

    def test_only_image_column_is_found_whatever_its_name(self, tmp_path, table):
        table([1, 2]).rename_column("image", "picture").to_parquet(tmp_path / "train.parquet")
        assert shades(load(tmp_path / "train.parquet")) == [1, 2]

    def test_wrong_image_column_is_named_with_the_nearest(self, tmp_path, table):
        table([1], [0]).rename_column("image", "picture").to_parquet(tmp_path / "train.parquet")
        file = tmp_path / "train.parquet"
        assert refused(file, image_column="pictrue") == "unknown image column 'pictrue': did you mean 'picture'?"
        assert refused(file, image_column="label") == "column 'label' holds no encoded images but int64; choose from: picture"
        assert refused(file, label_column="labels") == "unknown label column 'labels': did you mean 'label'?"
        assert "column 'picture' holds no labels" in refused(file, label_column="picture")

    def test_several_image_columns_want_a_choice_unless_one_is_called_image(self, tmp_path, table):
        after = table([3, 4]).rename_column("image", "after")
        both = datasets.concatenate_datasets([table([1, 2]).rename_column("image", "before"), after], axis=1)
        both.to_parquet(tmp_path / "train.parquet")
        assert refused(tmp_path / "train.parquet") == "several columns hold images, choose one as image_column: before, after"
        for column, expected in (("before", [1, 2]), ("after", [3, 4])):
            assert shades(load(tmp_path / "train.parquet", image_column=column)) == expected
        both.rename_column("after", "image").to_parquet(tmp_path / "test.parquet")
        assert shades(load(tmp_path / "test.parquet", "test")) == [3, 4]

    def test_no_image_column(self, tmp_path):
        parquet.write_table(pyarrow.table({"text": ["a"], "label": [0]}), tmp_path / "train.parquet")
        assert refused(tmp_path / "train.parquet") == "no column holds images; the columns are: text, label"

    @pytest.mark.parametrize("kind", [pyarrow.binary(), pyarrow.large_binary(), pyarrow.struct({"bytes": pyarrow.binary()})])
    def test_column_of_plain_bytes_is_taken_when_it_is_named(self, tmp_path, kind):
        encoded = [save(tmp_path / "one.png", shade) for shade in (5, 6)]
        rows = pyarrow.array([{"bytes": one} for one in encoded] if pyarrow.types.is_struct(kind) else encoded, kind)
        parquet.write_table(pyarrow.table({"content": rows}), tmp_path / "train.parquet")
        images = load(tmp_path / "train.parquet", image_column="content")
        assert shades(images) == [5, 6] and names(images) == ["row 0", "row 1"]

    def test_class_column_called_label_comes_before_others(self, tmp_path, table):
        file = tmp_path / "train.parquet"
        coarse = datasets.ClassLabel(names=["animal"])
        table([1, 2], [2, 1]).add_column("coarse", [0, 0], feature=coarse).to_parquet(file)
        assert load(file).labels.tolist() == [2, 1]
        assert load(file, label_column="coarse").label_names == ["animal"]
        table([1, 2], [2, 1]).rename_column("label", "kind").to_parquet(file)
        assert load(file).labels.tolist() == [2, 1]
        table([1, 2], [2, 1]).rename_column("label", "fine").add_column("coarse", [0, 0], feature=coarse).to_parquet(file)
        assert load(file).labels is None

    def test_no_label_column(self, tmp_path, table):
        table([1, 2]).to_parquet(tmp_path / "train.parquet")
        images = load(tmp_path / "train.parquet")
        assert images.labels is None and images.label_names is None

    @pytest.mark.parametrize("kept_back", [-1, None])
    def test_labels_that_are_kept_back_are_none(self, tmp_path, table, kept_back):
        table([1, 2], [kept_back] * 2).to_parquet(tmp_path / "test.parquet")
        images = load(tmp_path / "test.parquet", "test")
        assert images.labels is None and images.label_names is None

    @pytest.mark.parametrize(("label", "shown"), [(3, "3 "), (-7, "-7")])
    def test_label_out_of_range_is_named_with_its_row(self, tmp_path, table, label, shown):
        rows = table([1, 2, 3], [2, 0, 1]).data.table
        rows = rows.set_column(1, rows.schema.field("label"), pyarrow.array([2, label, 1], pyarrow.int64()))
        parquet.write_table(rows, tmp_path / "train.parquet")
        message = refused(tmp_path / "train.parquet")
        assert message.startswith(f"row 1 has the label {shown}") and "of 3 classes" in message

    def test_ten_thousand_classes(self, tmp_path, table):
        classes = datasets.ClassLabel(names=[f"class {number}" for number in range(10_000)])
        table([1, 2], [9_999, 0], label=classes).to_parquet(tmp_path / "train.parquet")
        assert load(tmp_path / "train.parquet").labels.tolist() == [9_999, 0]

    def test_file_without_rows_is_an_empty_set_and_no_trouble_beside_others(self, folder, table):
        folder.mkdir()
        full = table([8])
        full.to_parquet(folder / "train-0.parquet")
        for name in ("train-1", "test"):
            parquet.write_table(full.data.table.slice(0, 0), folder / f"{name}.parquet")
        assert refused(folder, "test") == f"{folder} (test) has no rows"
        assert shades(load(folder)) == [8]

    def test_file_that_is_no_parquet(self, tmp_path):
        (tmp_path / "train.parquet").write_bytes(b"<html>" * 100)
        assert refused(tmp_path / "train.parquet").startswith(f"cannot load the data set '{tmp_path}/train.parquet': ")


class TestNotThere:
    def test_folder_without_images(self, folder):
        folder.mkdir()
        assert refused(folder) == f"no images and no Parquet files in '{folder}'"
        (folder / "notes.txt").write_text("nothing")
        assert refused(folder) == f"no images and no Parquet files in '{folder}'; 1 file not read: .txt 1"

    def test_split_without_images(self, folder):
        save(folder / "train" / "0.png")
        (folder / "test").mkdir()
        assert refused(folder, "test") == f"no images in '{folder}/test'"
        (folder / "test" / "0.heic").write_bytes(b"of a telephone")
        assert refused(folder, "test") == f"no images in '{folder}/test'; 1 file not read: .heic 1"
        assert len(load(folder)) == 1

    def test_split_that_is_not_there(self, folder):
        save(folder / "train" / "0.png")
        save(folder / "val" / "0.png")
        assert refused(folder, "vali") == "unknown split 'vali': did you mean 'val'?"
        assert refused(folder, "xyz") == "unknown split 'xyz': choose from: train, val"

    def test_path_that_is_not_there_is_no_hub_id(self, folder, monkeypatch):
        monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: pytest.fail("a path was looked up on the Hub"))
        save(folder / "0.png")
        wrong = folder.parent / "picturse"
        assert refused(wrong) == f"unknown folder or file '{wrong}': did you mean '{folder}'?"
        for source in ("./nothing", "~/nothing", "../nothing", "a/b/c", "with space", "a//b", "id@a@b", "https://example.com/x"):
            assert refused(source).startswith(f"unknown folder or file '{source}': ")

    def test_file_that_is_neither(self, tmp_path):
        save(tmp_path / "one.png")
        one = f"'{tmp_path}/one.png' is neither a folder nor a .parquet, .csv, .tsv, .jsonl, .tar or .zip file"
        assert refused(tmp_path / "one.png") == one


class TestHub:
    """`datasets.load_dataset` is replaced: nothing here reaches the network."""

    @pytest.fixture
    def asked(self, monkeypatch, tmp_path):
        asked = []
        rows = datasets.Dataset.from_dict(
            {"img": [{"bytes": save(tmp_path / "one.png", 3), "path": None}], "fine_label": [1]},
            features=datasets.Features({"img": datasets.Image(), "fine_label": datasets.ClassLabel(names=["a", "b"])}),
        )

        def load_dataset(path, **options):
            asked.append((path, options))
            return datasets.DatasetDict({"train": rows, "test": rows})

        monkeypatch.setattr("datasets.load_dataset", load_dataset)
        return asked

    @pytest.mark.parametrize(
        ("source", "path", "configuration"), [("some-one/a_set.v2", "some-one/a_set.v2", None), ("mnist@small-2", "mnist", "small-2")]
    )
    def test_id_and_configuration(self, asked, source, path, configuration):
        images = load_images(source, "test", device=CPU)
        assert asked == [(path, {"name": configuration})]
        assert shades(images) == [3] and images.labels.tolist() == [1] and (images.source, images.split) == (source, "test")

    def test_split_that_is_not_there(self, asked):
        assert refused("some-one/a-set", "tests") == "unknown split 'tests': did you mean 'test'?"

    def test_what_exists_here_is_not_looked_up_there(self, asked, monkeypatch, folder):
        monkeypatch.undo()
        monkeypatch.chdir(folder.parent)
        save(folder / "0.png", 9)
        assert shades(load_images("pictures", "train", device=CPU)) == [9] and not asked

    def test_failure_is_one_line_that_says_what_else_works(self, monkeypatch):
        def load_dataset(*_, **__):
            try:
                raise OSError("no route\nto host")
            except OSError as error:
                raise RuntimeError("something long") from error

        monkeypatch.setattr("datasets.load_dataset", load_dataset)
        message = refused("some-one/a-set")
        assert message.startswith("cannot load the data set 'some-one/a-set': no route;") and "'digits' is built in" in message

    @pytest.mark.parametrize("moved", [False, True])
    def test_files_in_the_hub_cache_belong_to_the_set_although_they_are_links(self, monkeypatch, tmp_path, moved):
        home = tmp_path / "home"
        hub = tmp_path / "elsewhere" if moved else home / "hub"
        monkeypatch.setattr("datasets.config.HF_CACHE_HOME", str(home))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
        snapshot = hub / "datasets--some-one--a-set" / "snapshots" / "0"
        snapshot.mkdir(parents=True)
        for shade in (3, 4):
            blob = snapshot.parent.parent / "blobs" / f"{shade}.png"
            save(blob, shade)
            (snapshot / f"{shade}.png").symlink_to(os.path.relpath(blob, snapshot))
        splits = datasets.load_dataset("imagefolder", data_files={"train": f"{snapshot}/**"}, drop_labels=True)
        monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: splits)
        images = load_images("some-one/a-set", "train", device=CPU)
        assert shades(images) == [3, 4] and images.skipped == []


def test_data_set_made_by_a_script_is_taken_from_its_copy_in_parquet(tmp_path, monkeypatch):
    rows = datasets.Dataset.from_dict(
        {"image": [{"bytes": save(tmp_path / "one.png", 3), "path": None}]}, features=datasets.Features({"image": datasets.Image()})
    )
    asked = []

    def load_dataset(path, name=None, revision=None):
        asked.append((path, name, revision))
        if revision is None:
            raise RuntimeError("Dataset scripts are no longer supported, but found photos.py")
        return datasets.DatasetDict({"train": rows})

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    assert len(load_images("ada/photos@small", "train", device=CPU)) == 1
    assert asked == [("ada/photos", "small", None), ("ada/photos", "small", "refs/convert/parquet")]


CIFAR10 = Path(__file__).parents[2] / "shared" / "data" / "cifar10"


@pytest.mark.slow
@pytest.mark.skipif(not CIFAR10.is_dir(), reason="needs ../shared/data/cifar10")
def test_cifar10_from_its_parquet_files(tmp_path):
    """Pixels of the test images alone are decoded: the training images are as many again five times."""
    train = load_images(str(CIFAR10), "train", device=CPU, budget=0)
    test = load_images(str(CIFAR10), "test", device=CPU, budget=2**30)
    assert (len(train), len(test)) == (50_000, 10_000) and train.skipped == test.skipped == []
    assert not train.resident and test.resident
    assert torch.bincount(train.labels).tolist() == [5_000] * 10 and torch.bincount(test.labels).tolist() == [1_000] * 10
    assert train.label_names[:3] == ["airplane", "automobile", "bird"]
    mean = torch.zeros(3, dtype=torch.float64)
    for batch in test.batches(torch.arange(10_000).split(5_000)):
        assert batch.pixels.shape[1:] == (3, 32, 32) and (batch.sizes == 32).all()
        mean += batch.pixels.double().mean(dim=(0, 2, 3)) / 510
    np.testing.assert_allclose(mean, [0.4942, 0.4851, 0.4504], atol=0.0005)
    shutil.rmtree(tmp_path)  # 100 MB that pytest would keep for three runs


class TestNames:
    """`utf8_path` tells every path from every other, and says how to come back to it."""

    @pytest.mark.parametrize(
        "raw", [b"caf\xe9.png", b"caf\\xe9.png", b"caf\\x5cxe9.png", b"a\\b.png", b"\xff\\xff", "ü\n\u200d.png".encode(), b"\\x\xe9"]
    )
    def test_there_and_back(self, raw):
        text = utf8_path(os.fsdecode(raw))
        text.encode()
        back = re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes([int(found[1], 16)]), text.encode())
        assert back == raw

    def test_what_is_utf_8_stays_as_it_is(self):
        for name in ("a/b.png", "ünïcode 图.png", "two\nlines", "back\\slash", "x" * 1000):
            assert utf8_path(name) == name

    @pytest.mark.parametrize("source", ["ada/train.csv", "ada/photos.zip", "ada/shard.tar", "ada/rows.jsonl", "ada/TRAIN.PARQUET"])
    def test_name_of_a_data_file_is_no_hub_id(self, source, monkeypatch):
        monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: pytest.fail("a file was looked up on the Hub"))
        assert hub_id(source) is None and source_name(source) == source.partition("/")[2]
        assert refused(source).startswith(f"unknown folder or file '{source}': ")
