"""Which column holds the labels, and what its values become: classes, no label, or nothing that is taken in silence."""

import io
import json
import logging

import numpy as np
import pandas
import pyarrow
import pytest
import torch
from data_sets import CPU, RESIDENT, STREAMED, refused, save
from data_sets import load as load_both
from PIL import Image
from pyarrow import parquet

from sslzoo.data import load_images
from sslzoo.errors import InputError
from sslzoo.evaluation import Preprocessing, make_data

BUDGETS = pytest.mark.parametrize("budget", [RESIDENT, STREAMED], ids=["resident", "streamed"])


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
        if budget is None:
            return load_both(tmp_path / f"{split}.parquet", split, **options)
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
    "numbers as texts, some without": (["1", "2", "-1"], [0, 1, -1], ["1", "2"]),
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
        "4 images in 2 classes; 1 image without a label: row 2", "3 images in 1 class; 2 images without a label: row 0, row 2",
        "left out 1 of 4 images, which have no label", "left out 2 of 3 images, which have no label",
    ]  # fmt: skip


IN_TABLES = {  # as CSV has them: the lines of a column, and what they become
    "numbers": (["10", "9"], [1, 0], ["9", "10"]),
    "numbers, some without": (["3", "-1", ""], [0, -1, -1], ["3"]),
    "as pandas writes numbers of which some are missing": (["1.0", "2.0", ""], [0, 1, -1], ["1", "2"]),
    "texts, some without": (["b", "", "-1", "a"], [1, -1, -1, 0], ["a", "b"]),
    "codes": (["01", "1", "2"], [0, 1, 2], ["01", "1", "2"]),
    "not a number": (["nan", "NaN", "3"], [-1, -1, 0], ["3"]),
}


@pytest.mark.parametrize("values", IN_TABLES)
@pytest.mark.parametrize("column", ["label", "Class", "target"])
def test_texts_of_a_table_become_the_classes_that_values_would(tmp_path, values, column):
    lines, labels, names = IN_TABLES[values]
    save(tmp_path, *(f"{row}.png" for row in range(len(lines))))
    (tmp_path / "train.csv").write_text("\n".join([f"path,id,{column}", *(f"{row}.png,7,{text}" for row, text in enumerate(lines))]))
    images = load_both(tmp_path / "train.csv")
    assert images.labels.tolist() == labels and images.label_names == names


@pytest.mark.parametrize(
    ("values", "labels", "names"),
    [
        ([True, False, None], [1, 0, -1], ["False", "True"]),
        ([1.0, 2], [0, 1], ["1", "2"]),
        (["a", 1], [1, 0], ["1", "a"]),
        ([2**62, 3], [1, 0], ["3", str(2**62)]),
    ],
)
def test_values_of_json_become_classes(tmp_path, values, labels, names):
    save(tmp_path, *(f"{row}.png" for row in range(len(values))))
    rows = [json.dumps({"path": f"{row}.png", "label": value}) for row, value in enumerate(values)]
    (tmp_path / "train.jsonl").write_text("\n".join(rows))
    images = load_both(tmp_path / "train.jsonl")
    assert images.labels.tolist() == labels and images.label_names == names


@pytest.mark.parametrize(
    ("values", "reason"),
    [([0.5, 1.0], "fractions such as 0.5, which are no classes"), ([["a"], ["b"]], "lists or structures, which are no classes")],
)
def test_what_are_no_classes_in_a_table_stops_nobody_who_needs_none(tmp_path, values, reason):
    save(tmp_path, "0.png", "1.png")
    (tmp_path / "train.jsonl").write_text("\n".join(json.dumps({"path": f"{row}.png", "label": value}) for row, value in enumerate(values)))
    images = load_both(tmp_path / "train.jsonl")
    assert images.labels is None and images.unlabelled == f"column 'label' holds {reason}"
    assert refused(tmp_path / "train.jsonl", label_column="label") == f"column 'label' holds {reason}"


def test_number_that_no_class_can_have(tmp_path):
    save(tmp_path, "0.png")
    (tmp_path / "train.csv").write_text(f"path,label\n0.png,{10**20}\n")
    assert refused(tmp_path / "train.csv") == "column 'label' has labels of 2**63 or more, which are too large"


def test_several_label_columns_of_a_table_are_named_and_asked_for(tmp_path):
    save(tmp_path, "0.png", "1.png")
    (tmp_path / "train.csv").write_text("path,target,label_name\n0.png,0,cat\n1.png,1,dog\n")
    images = load_both(tmp_path / "train.csv")
    assert images.unlabelled == "several columns may hold labels, choose one as label_column: target, label_name"
    assert load_both(tmp_path / "train.csv", label_column="label_name").label_names == ["cat", "dog"]


@pytest.mark.parametrize(("key", "value"), [("label_column", "digit"), ("image_column", "picture")])
def test_columns_that_the_digits_do_not_have(key, value):
    with pytest.raises(InputError, match=f"unknown {key.replace('_', ' ')} '{value}'"):
        load_images("digits", "train", device=CPU, **{key: value})


def test_classes_of_splits_with_other_values_are_told_by_their_names(load):
    train, test = load({"label": [10, 20, 30]}), load({"label": [30, 10]}, split="test")
    data = make_data(train, test, Preprocessing(4, 4))
    assert data.classes.count == 3 and data.classes.of_test[test.labels].tolist() == [2, 0]
    assert np.all(np.array(test.label_names) == ["10", "30"])
