"""Tables of paths: CSV and JSON lines, by themselves or as the metadata.csv of a folder of images."""

import csv
import json
import os
from pathlib import PurePosixPath

from sslzoo.errors import InputError, first_line, unknown

from .layout import Arranged
from .listing import Listing, counted, ending_of, image_endings, some
from .names import shown
from .opened import Asked, Opened, as_tensor, numbered
from .rows import Rows

TABLES = (".csv", ".tsv", ".jsonl")
_FILE_NAME = "file_name"  # of metadata files, as `datasets` has it
Table = dict[str, list]  # values by column, all of one length; None where there is none


def open_tables(folder: str, files: list[str], asked: Asked) -> Opened:
    """The images that the tables `files`, relative to `folder`, name by paths relative to themselves. Raises `InputError`.

    No path leads out of `folder`. Labels are the column that is asked for, else the one called "label" where there is one.
    """
    paths, values = [], []
    for file in files:
        table = _read(os.path.join(folder, file))
        column = asked.image_column or _path_column(table, file)
        for kind, name in (("image", column), ("label", asked.label_column)):
            if name is not None and name not in table:
                raise unknown(f"{kind} column", name, table)
        named = asked.label_column or ("label" if "label" in table else None)
        paths += [_join(folder, file, path) for path in table[column]]
        values += table[named] if named else [None] * len(table[column])
    labels, names = _numbered(values, asked.label_column or "label")
    return _opened(folder, paths, labels, names)


def open_metadata(folder: str, listing: Listing, arranged: Arranged, label_column: str) -> Opened | None:
    """The images of a split in the order of the folder's metadata files, with the labels of their column `label_column`.

    None where that is "label" and no metadata file has it. Rows of images of other splits are passed over. Raises `InputError`.
    """
    files = [file for ending in (*TABLES, ".parquet") for file in listing.others.get(ending, []) if PurePosixPath(file).stem == "metadata"]
    paths, values, columns = [], [], {"label"}
    for file in files:
        table = _read(os.path.join(folder, file))
        if _FILE_NAME in table:
            columns |= table.keys() - {_FILE_NAME}
            if label_column in table:
                paths += [_join(folder, file, path) for path in table[_FILE_NAME]]
                values += table[label_column]
    if not paths and label_column == "label":
        return None
    if not paths:
        raise unknown("label column", label_column, columns)
    # All the splits' labels are numbered together.
    labels, names = _numbered(values, label_column)
    here = {os.path.join(folder, path) for path in arranged.paths}
    elsewhere = {os.path.join(folder, *one.parts, name) for one in listing.folders for name in one.images} - here
    rows = [row for row, path in enumerate(paths) if path not in elsewhere]
    opened = _opened(folder, [paths[row] for row in rows], [labels[row] for row in rows], names)
    unlisted = sorted(here - {paths[row] for row in rows})
    if unlisted:
        shorter = [os.path.relpath(path, folder) for path in unlisted]
        opened.notes.append(f"{counted(len(unlisted), 'image')} not in {some(files)}, left out: {some(shorter)}")
    return opened


def _opened(folder: str, paths: list[str | None], labels: list[int], names: list[str] | None) -> Opened:
    import pyarrow as arrow

    shorter = [f"row {row}" if path is None else path.removeprefix(os.path.join(folder, "")) for row, path in enumerate(paths)]
    tensor, notes = as_tensor(labels, shorter)
    encoded = arrow.array([None if path is None else path.encode("utf-8", "surrogateescape") for path in paths], arrow.binary())
    column = arrow.StructArray.from_arrays([arrow.nulls(len(paths), arrow.binary()), encoded], ["bytes", "path"])
    rows = Rows(arrow.chunked_array([column]), (folder,))
    return Opened(rows, tensor, None if tensor is None else names, [], notes)


def _numbered(values: list, column: str) -> tuple[list[int], list[str] | None]:
    labels, names = numbered(values)
    if any(isinstance(value, list | dict) for value in values):
        raise InputError(f"column '{column}' holds no labels (classes or whole numbers) but lists or structures")
    if names and all(_is_fraction(name) for name in names):
        raise InputError(f"column '{column}' holds no labels (classes or whole numbers) but fractions such as {shown(names[0])}")
    return labels, names


def _is_fraction(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "." in text or "e" in text.lower()


def _join(folder: str, table: str, path: object) -> str | None:
    """Where a path in a table leads to, as far as its text says; what leads out of the folder is refused when it is read."""
    if path is None:
        return None
    try:
        place = os.path.normpath(os.path.join(folder, os.path.dirname(table), str(path)))
        place.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a letter, which JSON can hold and no path can
        return None
    return place


def _path_column(table: Table, file: str) -> str:
    """The column of paths to images: the one that is called so by `datasets`, else the only one whose first path ends like an image."""
    if _FILE_NAME in table:
        return _FILE_NAME
    first = {column: next((value for value in values if value is not None), "") for column, values in table.items()}
    found = [column for column, value in first.items() if ending_of(str(value)) in image_endings()]
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(f"several columns of '{shown(file)}' hold paths to images, choose one as image_column: {', '.join(found)}")
    raise InputError(f"no column of '{shown(file)}' holds paths to images; the columns are: {shown(', '.join(table))}")


def _read(file: str) -> Table:
    """Texts of a CSV file, values of a file of JSON lines or Parquet. A line that is no JSON is a row without values."""
    try:
        if file.endswith(".parquet"):
            from pyarrow import parquet

            return parquet.read_table(file).to_pydict()
        with open(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
            if file.endswith(".jsonl"):
                rows = [_object(line) for line in lines if line.strip()]
                columns = dict.fromkeys(key for row in rows for key in row)
            else:
                reader = csv.DictReader(lines, delimiter="\t" if file.endswith(".tsv") else ",")
                rows, columns = list(reader), reader.fieldnames or []
        return {column: [None if row.get(column) == "" else row.get(column) for row in rows] for column in columns}
    except (OSError, ValueError, csv.Error) as error:  # ValueError: Arrow's, too
        raise InputError(f"cannot read '{shown(file)}': {first_line(error)}") from error


def _object(line: str) -> dict:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
