"""A row may name any file or address: only the data set's own files are ever opened."""

import builtins
import json
import os

import datasets
import pyarrow
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from sslzoo.data import load_images
from sslzoo.data.decode import BrokenImage, decode
from sslzoo.data.messages import display_name
from sslzoo.data.rows import TableRows

CPU = torch.device("cpu")
STORED = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})


def save(path, shade):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (3, 3), (shade, shade, shade)).save(path)
    return path


@pytest.fixture
def secret(tmp_path):
    """A good image outside the data set: were it opened, it would be shown."""
    return save(tmp_path / "secret" / "secret.png", 200)


@pytest.fixture
def folder(tmp_path):
    save(tmp_path / "set" / "0.png", 0)
    return tmp_path / "set"


@pytest.fixture
def opened(monkeypatch):
    """The files that are opened and the addresses that are asked for from here on."""
    opened = []
    really = builtins.open

    def watched(file, *arguments, **options):
        opened.append(str(file))
        return really(file, *arguments, **options)

    monkeypatch.setattr(builtins, "open", watched)
    monkeypatch.setattr("socket.getaddrinfo", lambda host, *_, **__: opened.append(host) or [])
    monkeypatch.setattr("socket.socket.connect", lambda _, address: opened.append(str(address)))
    return opened


def rows(paths, *folders):
    column = pyarrow.array([{"bytes": None, "path": path} for path in paths], STORED)
    return TableRows(pyarrow.chunked_array([column]), tuple(str(folder) for folder in folders))


def foreign(path, *folders):
    """Asserts that the row with this path is refused, and gives the reason."""
    one = rows([str(path)], *folders)
    assert one.lengths().tolist() == [-1]
    with pytest.raises(BrokenImage) as caught:
        one.encoded(0)
    return str(caught.value)


@pytest.mark.parametrize("budget", [2**30, 0])
@pytest.mark.parametrize(
    "path",
    [
        "file:///etc/passwd",
        "/etc/passwd",
        "../secret/secret.png",
        "{secret}",
        "file://{secret}",
        "secret.png",
        "http://169.254.169.254/latest",
        "https://example.com/a.png",
    ],
)
def test_paths_in_parquet_rows_are_never_opened(tmp_path, folder, secret, monkeypatch, opened, path, budget):
    path = path.format(secret=secret)
    (tmp_path / "here").mkdir()
    save(tmp_path / "here" / "secret.png", 200)
    monkeypatch.chdir(tmp_path / "here")
    good = {"bytes": (folder / "0.png").read_bytes(), "path": None}
    table = datasets.Dataset.from_dict({"image": [good, {"bytes": None, "path": path}]}, features=datasets.Features(image=datasets.Image()))
    # The writer of `datasets` would open the paths.
    parquet.write_table(table.data.table, tmp_path / "train.parquet")
    opened.clear()
    images = load_images(str(tmp_path / "train.parquet"), "train", device=CPU, budget=budget)
    batch = next(images.batches([torch.arange(len(images))]))
    assert (batch.pixels[:, :, :3, :3] == 0).all() and set(batch.samples.tolist()) == {0}
    assert images.skipped == [path]
    assert not [name for name in opened if "secret" in name or "passwd" in name or "169.254" in name or "example" in name]


def test_links_in_a_folder_that_the_user_named_are_followed(folder, secret):
    (folder / "1.png").symlink_to(secret)
    (folder / "more").symlink_to(secret.parent)
    images = load_images(str(folder), "train", device=CPU)
    assert next(images.batches([torch.arange(len(images))])).pixels[:, 0, 0, 0].tolist() == [0, 200, 200]
    assert foreign(folder / "more" / "secret.png", folder) == "its file is not part of the data set"


@pytest.mark.parametrize("name", ["../secret/secret.png", "file:///etc/passwd", "/etc/passwd", "{secret}", "link.png", "http://169.254.169.254/a.png"])
@pytest.mark.parametrize("table", ["metadata.csv", "metadata.jsonl", "train.csv", "train.jsonl"])
def test_table_cannot_name_a_file_elsewhere(folder, secret, opened, name, table):
    name = name.format(secret=secret)
    (folder / "link.png").symlink_to(secret)
    rows = [{"file_name": "0.png", "label": "a"}, {"file_name": name, "label": "b"}]
    lines = [json.dumps(row) for row in rows] if table.endswith("jsonl") else ["file_name,label", *(",".join(row.values()) for row in rows)]
    (folder / table).write_text("\n".join(lines))
    source = folder if table.startswith("metadata") else folder / table
    opened.clear()
    images = load_images(str(source), "train", label_column="label", device=CPU)
    assert next(images.batches([torch.arange(len(images))])).pixels[:, 0, 0, 0].tolist() == [0] and len(images.skipped) == 1
    assert not [file for file in opened if "secret" in file or "link.png" in file or "passwd" in file or "169.254" in file]


def test_own_files_are_opened(folder, monkeypatch):
    inside = save(folder / "cat" / "1.png", 1)
    (folder / "link.png").symlink_to(inside)
    monkeypatch.chdir(folder.parent)
    for path in (inside, folder / "link.png", "set/cat/1.png", folder / "dog" / ".." / "cat" / "1.png"):
        one = rows([str(path)], folder)
        assert one.lengths().tolist() == [inside.stat().st_size]
        assert decode(one.encoded(0), None)[0, 0].tolist() == [1, 1, 1]


def test_the_set_itself_may_be_a_link(folder):
    (folder.parent / "link").symlink_to(folder)
    images = load_images(str(folder.parent / "link"), "train", device=CPU)
    assert images.skipped == [] and len(images) == 1 and images.name(0) == "0.png"


def test_paths_that_lead_elsewhere_by_a_detour_are_refused(folder, secret):
    (folder.parent / "set-of-others").mkdir()
    neighbour = save(folder.parent / "set-of-others" / "1.png", 9)
    for path in (neighbour, folder / ".." / "secret" / "secret.png", f"{folder}/../set-of-others/1.png", secret):
        assert foreign(path, folder) == "its file is not part of the data set"
    assert foreign(folder / "0.png") == "its file is not part of the data set"


def test_what_lies_elsewhere_is_not_even_looked_at(folder, secret, monkeypatch):
    looked_at = []
    monkeypatch.setattr("os.path.isfile", looked_at.append)
    monkeypatch.setattr("os.path.islink", looked_at.append)
    foreign(secret, folder)
    assert looked_at == []


def test_two_dots_behind_a_link_are_not_taken_for_its_folder(folder, secret):
    (folder / "link").symlink_to(secret.parent / "below")
    (secret.parent / "below").mkdir()
    save(folder / "secret.png", 5)
    # To the system this is the secret itself; read as text it is the set's own image, and that is what is opened.
    assert os.path.samefile(f"{folder}/link/../secret.png", secret)
    assert decode(rows([f"{folder}/link/../secret.png"], folder).encoded(0), None)[0, 0].tolist() == [5, 5, 5]


def test_what_is_no_file_is_refused_without_waiting_for_it(folder):
    os.mkfifo(folder / "pipe.png")
    (folder / "round.png").symlink_to(folder / "round.png")
    for name in ("pipe.png", "round.png", "", "gone.png", "0.png\0.png", "x" * 5000 + ".png"):
        assert foreign(f"{folder}/{name}", folder) == "its file is not part of the data set"


def test_file_that_may_not_be_read_is_broken(folder, monkeypatch):
    def denied(*_):
        raise PermissionError(13, "Permission denied")

    one = rows([str(folder / "0.png")], folder)
    monkeypatch.setattr(builtins, "open", denied)
    with pytest.raises(BrokenImage, match="^Permission denied$"):
        one.encoded(0)


def test_row_without_anything_is_broken():
    with pytest.raises(BrokenImage, match="the row is empty"):
        rows([None]).encoded(0)
    missing = pyarrow.chunked_array([pyarrow.array([None], STORED)])
    with pytest.raises(BrokenImage, match="the row is empty"):
        TableRows(missing).encoded(0)


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        ("two\nlines.png", r"two\nlines.png"),
        ("\x1b[31mred.png", r"\x1b[31mred.png"),
        ("right\u202eto-left.png", r"right\u202eto-left.png"),
        ("caf\udce9.png", r"caf\udce9.png"),
        ("x" * 300, "x" * 125 + " ... " + "x" * 125),
    ],
)
def test_name_that_would_disturb_a_terminal_is_shown_without_that(path, seen):
    assert display_name(path) == seen and display_name("fine ünïcode 图.png") == "fine ünïcode 图.png"


@pytest.mark.parametrize("path", ["two\nlines.png", "x" * 300, "\u200d.png", "a\u00a0b.png"])
def test_name_is_the_path_whatever_is_in_it(path):
    assert rows(["fine.png", path]).name(1) == path and rows(["fine.png", path]).name(0) == "fine.png"


@pytest.mark.parametrize("path", ["", None])
def test_row_without_a_path_is_called_by_its_number(path):
    assert rows(["fine.png", path]).name(1) == "row 1"


def test_rows_are_found_across_chunks(folder):
    parts = [[b"a", b"bb"], [], [b"ccc"], [b"dddd", None]]
    column = TableRows(pyarrow.chunked_array([pyarrow.array(part, pyarrow.binary()) for part in parts]))
    assert len(column) == 5 and column.lengths().tolist() == [1, 2, 3, 4, -1]
    assert [bytes(column.encoded(row)) for row in range(4)] == [b"a", b"bb", b"ccc", b"dddd"]
    with pytest.raises(BrokenImage):
        column.encoded(4)
