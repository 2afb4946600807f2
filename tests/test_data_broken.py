"""Broken images are left out, counted and named; too many of them end the run with one line."""

from concurrent.futures import ThreadPoolExecutor

import datasets
import pytest
import torch
from PIL import Image

from sslzoo.data import load_images
from sslzoo.data.broken import BrokenImages
from sslzoo.errors import InputError

CPU = torch.device("cpu")
RESIDENT, STREAMED = 2**30, 0


@pytest.fixture
def file(tmp_path):
    """Writes a Parquet file of `count` images whose shade and label are their row, but for the broken rows' bytes."""

    def file(count, broken):
        rows = []
        for row in range(count):
            Image.new("RGB", (2, 2), (row, row, row)).save(tmp_path / "one.png")
            rows.append({"bytes": (tmp_path / "one.png").read_bytes(), "path": f"{row}.png"})
        for row, content in broken.items():
            rows[row] = {"bytes": content, "path": f"{row}.png"}
        classes = datasets.ClassLabel(num_classes=count)
        features = datasets.Features({"image": datasets.Image(), "label": classes})
        datasets.Dataset.from_dict({"image": rows, "label": list(range(count))}, features=features).to_parquet(tmp_path / "train.parquet")
        return str(tmp_path / "train.parquet")

    return file


def read(images):
    return list(images.batches(torch.arange(len(images)).split(8)))


def test_resident_set_leaves_a_broken_image_out_and_keeps_the_rest_aligned(file, caplog):
    images = load_images(file(120, {5: b"<html>"}), "train", device=CPU, budget=RESIDENT)
    rows = [row for row in range(120) if row != 5]
    assert images.resident and len(images) == 119 and images.skipped == ["5.png"]
    assert images.labels.tolist() == rows
    assert [images.name(position) for position in range(119)] == [f"{row}.png" for row in rows]
    batches = read(images)
    for part in ("samples", "labels"):
        assert torch.cat([getattr(batch, part) for batch in batches]).tolist() == rows
    assert torch.cat([batch.pixels[:, 2, 1, 1] for batch in batches]).tolist() == rows
    assert "left out 5.png: no image format that is read here" in caplog.text


def test_streamed_set_counts_a_broken_image_when_it_meets_it(file):
    images = load_images(file(120, {5: b""}), "train", device=CPU, budget=STREAMED)
    list(images.batches([torch.arange(5), torch.arange(6, 120)]))
    assert not images.resident and images.skipped == []
    list(images.batches([torch.tensor([5, 5]), torch.tensor([5])]))
    assert images.skipped == ["5.png"]


@pytest.mark.parametrize("budget", [RESIDENT, STREAMED])
def test_one_broken_image_among_few_is_tolerated(file, budget):
    images = load_images(file(3, {1: b"<html>"}), "train", device=CPU, budget=budget)
    shades = torch.cat([batch.pixels[:, 0, 0, 0] for batch in read(images)]).tolist()
    assert images.skipped == ["1.png"]
    assert shades == ([0, 2] if images.resident else [0, 2, 2])


@pytest.mark.parametrize("budget", [RESIDENT, STREAMED])
def test_the_only_image_is_not_allowed_to_be_broken(file, budget):
    with pytest.raises(InputError) as caught:
        load_images(file(1, {0: b"<html>"}), "train", device=CPU, budget=budget)
    assert str(caught.value).endswith("train.parquet (train) can be read (0.png: no image format that is read here)")


@pytest.mark.parametrize("budget", [RESIDENT, STREAMED])
def test_more_than_one_percent_ends_with_one_line(file, budget):
    source = file(200, {row: b"<html>" for row in (30, 31, 32)})
    with pytest.raises(InputError) as caught:
        read(load_images(source, "train", device=CPU, budget=budget))
    message = str(caught.value)
    assert message.isprintable() and message.startswith("3 of ") and f"{source} (train) cannot be read (1 % may): 30.png" in message
    assert "no image format that is read here" in message


@pytest.mark.parametrize("budget", [RESIDENT, STREAMED])
def test_one_percent_is_tolerated(file, budget):
    images = load_images(file(200, {30: b"", 31: b""}), "train", device=CPU, budget=budget)
    read(images)
    assert images.skipped == ["30.png", "31.png"]


def test_all_broken_is_said_before_anything_is_decoded(file):
    with pytest.raises(InputError, match="no image in .* can be read .0.png: 0 bytes"):
        load_images(file(3, {0: b"", 1: b"", 2: b""}), "train", device=CPU)


@pytest.mark.parametrize("budget", [RESIDENT, STREAMED])
def test_all_that_can_be_read_is_read_where_all_may_be_broken(file, budget, monkeypatch):
    monkeypatch.setattr("sslzoo.data.load._PROBES", 2)  # rows 0 and 249, which are broken
    source = file(250, {row: b"<html>" for row in range(250) if row != 77})
    images = load_images(source, "train", device=CPU, budget=budget, broken_share=1.0)
    assert {row for batch in read(images) for row in batch.samples.tolist()} == {77} and len(images.skipped) == 249


class TestWithoutAnImage:
    """`BrokenImages` by itself."""

    def tolerated(self, total, seen, **share):
        broken = BrokenImages("here", "train", total, **share)
        for row in range(total):
            try:
                broken.add(row, f"row {row}", "torn", seen)
            except InputError:
                return row
        return total

    @pytest.mark.parametrize(
        ("total", "seen", "most"),
        [
            (1, 1, 0),
            (2, 1, 1),
            (10, 10, 1),
            (100, 100, 1),
            (200, 200, 2),
            (1_000, 1_000, 10),
            # Early on three standard deviations are allowed: 1 + 3 of 100 seen, 10 + 9.5 of 1,000.
            (1_000_000, 1, 4),
            (1_000_000, 100, 4),
            (1_000_000, 1_000, 19),
            (1_000, 100, 4),
        ],
    )
    def test_how_many_are_tolerated(self, total, seen, most):
        assert self.tolerated(total, seen) == most

    @pytest.mark.parametrize(
        ("share", "total", "seen", "most"),
        [(0.0, 100, 100, 0), (0.1, 10, 10, 1), (0.5, 10, 10, 5), (0.5, 1_000, 1_000, 500), (0.001, 100, 100, 1), (1.0, 50, 50, 49)],
    )
    def test_how_many_are_tolerated_with_another_share(self, share, total, seen, most):
        assert self.tolerated(total, seen, share=share) == most

    def test_of_many_only_the_first_are_named_one_by_one(self, caplog):
        broken = BrokenImages("here", "train", 1_000, 1.0)
        for row in range(500):
            broken.add(row, f"row {row}", "torn", 1_000)
        assert len(broken.names) == 500 and len(caplog.records) == 20
        assert caplog.records[-1].getMessage().endswith("; further ones are only counted")

    def test_the_same_row_counts_once(self, caplog):
        broken = BrokenImages("here", "train", 100)
        for _ in range(5):
            broken.add(7, "row 7", "torn", 100)
        assert broken.names == ["row 7"] and 7 in broken and 8 not in broken
        assert len(caplog.records) == 1

    def test_names_come_in_the_order_of_the_rows(self):
        broken = BrokenImages("here", "train", 1_000)
        for row in (12, 3, 7):
            broken.add(row, f"row {row}", "torn", 1_000)
        assert broken.names == ["row 3", "row 7", "row 12"]

    def test_the_line_says_how_many_where_which_and_why(self):
        broken = BrokenImages("here", "test", 100)
        broken.add(9, "nine.png", "torn", 50)
        with pytest.raises(InputError) as caught:
            broken.add(4, "four.png", "0 bytes", 60)
        assert str(caught.value) == (
            "2 of 60 images in here (test) cannot be read (1 % may): four.png, nine.png ... (last: 0 bytes); "
            "the recipe's broken_share lets more be left out"
        )

    def test_threads_lose_none(self):
        broken = BrokenImages("here", "train", 100_000)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda row: broken.add(row, f"{row}", "torn", 100_000), range(800)))
        assert broken.names == [f"{row}" for row in range(800)]
