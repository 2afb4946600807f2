"""Which column holds the labels, and what its values become: classes, no label, or nothing that is taken in silence."""

import io
import logging

import numpy as np
import pandas
import pyarrow
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from sslzoo.data import load_images
from sslzoo.errors import InputError
from sslzoo.evaluation import Preprocessing, make_data

CPU = torch.device("cpu")
BUDGETS = pytest.mark.parametrize("budget", [2**30, 0], ids=["resident", "streamed"])


def encoded(shade: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, shade, shade)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def load(tmp_path):
    """Loads a Parquet file with one image for each value of the columns, written without metadata of `datasets`."""

    def load(columns, budget=None, images=encoded, split="train", **options):
        count = len(next(iter(columns.values())))
        table = pyarrow.table({"image": [images(shade) for shade in range(count)], **columns})
        parquet.write_table(table, tmp_path / f"{split}.parquet")
        return load_images(str(tmp_path / f"{split}.parquet"), split, device=CPU, budget=budget, **options)

    return load


def told(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


VALUES = {
    "text": (["cat", "ant", "cat", "bee"], [2, 0, 2, 1], ["ant", "bee", "cat"]),
    "text in a dictionary": (pyarrow.array(["cat", "ant", "cat", "bee"]).dictionary_encode(), [2, 0, 2, 1], ["ant", "bee", "cat"]),
    "truth values": ([True, False, False, True], [1, 0, 0, 1], ["False", "True"]),
    "one truth value alone": ([True, True], [1, 1], ["False", "True"]),
    "sparse whole numbers": ([70, 5, 1000, 70], [1, 0, 2, 1], ["5", "70", "1000"]),
    "unsigned numbers": (pyarrow.array([7, 200], pyarrow.uint8()), [0, 1], ["7", "200"]),
    "numbers as large as row ids": ([2**62, 3, 2**40], [2, 0, 1], ["3", str(2**40), str(2**62)]),
    "whole numbers as floating-point ones": ([2.0, 0.0, 2.0], [1, 0, 1], ["0", "2"]),
    "some without a number": ([4, None, -1, 9], [0, -1, -1, 1], ["4", "9"]),
    "some not a number": ([4.0, float("nan"), 9.0], [0, -1, 1], ["4", "9"]),
    "some without a text": (["b", None, "", "a"], [1, -1, -1, 0], ["a", "b"]),
    "some without a truth value": ([True, None], [1, -1], ["False", "True"]),
}


@BUDGETS
@pytest.mark.parametrize("values", VALUES)
def test_values_become_classes(load, values, budget):
    column, labels, names = VALUES[values]
    for options in ({}, {"label_column": "label"}):
        images = load({"label": column}, budget, **options)
        assert images.labels.tolist() == labels and images.labels.dtype == torch.int64 and images.label_names == names
    (batch,) = images.batches([torch.arange(len(labels))])
    assert batch.labels.tolist() == labels


def test_frames_of_pandas_are_read_as_they_are_written(tmp_path):
    frame = pandas.DataFrame({"photo": [encoded(1), encoded(2)], "species": pandas.Categorical(["yak", "elk"])})
    frame.to_parquet(tmp_path / "train.parquet")
    images = load_images(str(tmp_path / "train.parquet"), "train", label_column="species", device=CPU)
    assert images.labels.tolist() == [1, 0] and images.label_names == ["elk", "yak"]


@pytest.mark.parametrize("column", ["labels", "Class", "class_id", "target", "category", "y"])
def test_the_only_column_that_says_so_holds_the_labels(load, column):
    assert load({column: ["b", "a"], "id": [1, 2], "caption": ["one", "two"]}).label_names == ["a", "b"]


@pytest.mark.parametrize("column", ["id", "yard", "classic", "caption"])
def test_a_column_that_says_nothing_holds_none(load, caplog, column):
    images = load({column: ["b", "a"]})
    assert images.labels is None and images.unlabelled == "" and told(caplog) == []


@pytest.mark.parametrize("kind", ["numbers", "classes"])
def test_several_label_columns_are_named_and_asked_for(tmp_path, load, caplog, kind):
    import datasets

    if kind == "numbers":
        images = load({"fine_label": [3, 4], "coarse_label": [0, 1]})
    else:
        features = {"image": datasets.Image(), **{name: datasets.ClassLabel(names=["a", "b"]) for name in ("fine_label", "coarse_label")}}
        rows = {"image": [{"bytes": encoded(1), "path": None}], "fine_label": [1], "coarse_label": [0]}
        datasets.Dataset.from_dict(rows, features=datasets.Features(features)).to_parquet(tmp_path / "train.parquet")
        images = load_images(str(tmp_path / "train.parquet"), "train", device=CPU)
    why = "several columns may hold labels, choose one as label_column: fine_label, coarse_label"
    assert images.labels is None and images.unlabelled == why
    assert [line.endswith(f"; {why}") for line in told(caplog)] == [True]
    with pytest.raises(InputError, match=f"nothing can be measured on it: {why}"):
        make_data(images, images, Preprocessing(4, 4))


NO_CLASSES = {
    "fractions": ([0.5, 1.0], "column 'label' holds fractions such as 0.5, which are no classes"),
    "lists": ([[1, 2], [3]], "column 'label' holds lists of int64, which are no classes"),
    "structures": ([{"a": 1}, {"a": 2}], "column 'label' holds structures of a, which are no classes"),
    "days": (pyarrow.array([1, 2], pyarrow.date32()), "column 'label' holds date32, which are no classes"),
}


@pytest.mark.parametrize("values", NO_CLASSES)
def test_what_are_no_classes_is_said_and_refused_where_it_is_named(load, caplog, values):
    column, why = NO_CLASSES[values]
    images = load({"label": column})
    assert images.labels is None and images.unlabelled == why and told(caplog)[0].endswith(f"; {why}")
    with pytest.raises(InputError, match="column 'label' holds"):
        load({"label": column}, label_column="label")


def test_infinite_numbers_are_no_classes(load):
    with pytest.raises(InputError, match="column 'label'"):
        load({"label": [1.0, float("inf")]}, label_column="label")


@pytest.mark.parametrize("column", [[-1, -1], [None, None], ["", None]])
def test_labels_that_are_all_kept_back_are_none(load, column):
    assert load({"label": column}).labels is None


@pytest.mark.parametrize("source", ["file", "folder", "digits"])
def test_none_switches_labels_off(load, tmp_path, caplog, source):
    if source == "file":
        images = load({"label": ["b", "a"]}, label_column="none")
    elif source == "folder":
        for name in ("a", "b"):
            (tmp_path / "set" / name).mkdir(parents=True)
            (tmp_path / "set" / name / "0.png").write_bytes(encoded(1))
        images = load_images(str(tmp_path / "set"), "train", label_column="none", device=CPU)
    else:
        images = load_images("digits", "test", label_column="none", device=CPU)
    assert images.labels is None and images.label_names is None and told(caplog) == []
    assert next(images.batches([torch.tensor([0, 1])])).labels is None


@BUDGETS
@pytest.mark.parametrize("how", ["bytes", "structure"])
def test_images_without_metadata_are_found(load, how, budget):
    as_stored = {"bytes": encoded, "structure": lambda shade: {"bytes": encoded(shade), "path": f"{shade}.png"}}[how]
    images = load({"id": [7, 8, 9]}, budget, images=as_stored)
    assert next(images.batches([torch.arange(3)])).pixels[:, 0, 0, 0].tolist() == [0, 1, 2]


def test_two_columns_of_bytes_are_named_and_asked_for(tmp_path):
    file = tmp_path / "train.parquet"
    parquet.write_table(pyarrow.table({"before": [encoded(1)], "after": [encoded(2)]}), file)
    with pytest.raises(InputError, match="several columns hold images, choose one as image_column: before, after"):
        load_images(str(file), "train", device=CPU)
    assert len(load_images(str(file), "train", image_column="after", device=CPU)) == 1


@BUDGETS
def test_images_without_a_label_are_left_out_of_what_is_measured_and_counted(load, caplog, budget):
    train = load({"label": ["a", "b", None, "a"]}, budget)
    test = load({"label": [None, "b", None]}, budget, split="test")
    assert len(train) == 4, "training takes them all"
    data = make_data(train, test, Preprocessing(4, 4))
    assert data.train.labels.tolist() == [0, 1, 0] and data.test.labels.tolist() == [0] and data.classes.of_test.tolist() == [1]
    ((positions, batch),) = data.train.read(torch.arange(3), 8)
    assert positions.tolist() == [0, 1, 2] and batch.samples.tolist() == [0, 1, 3]
    assert [line.partition(": ")[2] for line in told(caplog)] == [
        "left out 1 of 4 images, which have no label", "left out 2 of 3 images, which have no label",
    ]  # fmt: skip


def test_classes_of_splits_with_other_values_are_told_by_their_names(load):
    train, test = load({"label": [10, 20, 30]}), load({"label": [30, 10]}, split="test")
    data = make_data(train, test, Preprocessing(4, 4))
    assert data.classes.count == 3 and data.classes.of_test[test.labels].tolist() == [2, 0]
    assert np.all(np.array(test.label_names) == ["10", "30"])
