"""Tables of image paths: CSV and JSON lines, on their own or as the metadata.csv of a folder of images."""

import csv
import json
import os
from collections.abc import Sequence
from pathlib import PurePosixPath

import torch

from sslzoo.errors import InputError, first_line, unknown

from .arrays import ARRAYS
from .columns import label_column_by_name
from .labels import Labels, label_column
from .layout import ImageFiles
from .listing import Listing, ending_of, image_endings
from .messages import display_name, first_few, pluralize
from .raw_split import RawSplit, Request
from .rows import TableRows
from .split_names import choose, is_keyword

TABLES = (".csv", ".tsv", ".jsonl")
_SPLIT = "split"  # the column that names each row's split
_FILE_NAME = "file_name"  # the column of paths in metadata files of `datasets`
Table = dict[str, list]  # values by column, all of the same length; None for a missing value


def open_tables(folder: str, files: list[str], requested: Request, named: bool) -> RawSplit:
    """The images listed in the tables `files`, relative to `folder`. Raises `InputError`.

    Paths in a table are relative to it, and never lead out of `folder`. Labels are in the requested column, or else in the only one whose
    name says so. named: the split is in the files' own names; otherwise a column "split" of keywords decides which rows are read.
    """
    tables = {file: _read(os.path.join(folder, file)) for file in files}
    images = {file: requested.image_column or _path_column(table, file) for file, table in tables.items()}
    for file, table in tables.items():
        for kind, name in (("image", images[file]), ("label", requested.label_column)):
            if name is not None and name not in table:
                raise unknown(f"{kind} column", name, table)
    others = dict.fromkeys(column for file, table in tables.items() for column in table if column != images[file])
    label_name, reason = (requested.label_column, "") if requested.label_column else label_column_by_name(others)
    paths, values, splits = [], [], []
    for file, table in tables.items():
        empty = [None] * len(table[images[file]])
        paths += [_join(folder, file, path) for path in table[images[file]]]
        values += table.get(label_name, empty)
        splits += table.get(_SPLIT, empty)
    rows, names, notes = _rows_of_split(requested.split, splits, named)
    # Numbered over all splits together.
    opened = _split_from(folder, paths, label_column(values, label_name or "", requested.label_column is not None), rows)
    return opened._replace(splits=names, notes=notes, unlabelled=reason or opened.unlabelled)


def _rows_of_split(requested: str, column: list, named: bool) -> tuple[Sequence[int], list[str], list[str]]:
    """The rows of the requested split according to the column "split", the names of all splits, and notes for the user."""
    names = sorted({str(value) for value in column if value is not None})
    if named or not names or not all(map(is_keyword, names)):
        if not named:
            choose(requested, ["train"])
        notes = [f"column '{_SPLIT}' is not used, all rows are read: {first_few(names)}"] if len(names) > 1 else []
        return range(len(column)), ["train"], notes
    chosen, missing = choose(requested, names), column.count(None)
    notes = [f"{pluralize(missing, 'row')} without a split, left out"] if missing else []
    return [row for row, value in enumerate(column) if value is not None and str(value) in chosen], names, notes


def open_metadata(folder: str, listing: Listing, images: ImageFiles, column: str) -> RawSplit | None:
    """The images of a split in the order of the folder's metadata files, with the labels in `column`.

    None if that is "label" and no metadata file has such a column. Rows of other splits are skipped. Raises `InputError`.
    """
    files = [file for ending in (*TABLES, ".parquet") for file in listing.others.get(ending, []) if PurePosixPath(file).stem == "metadata"]
    paths, values, columns = [], [], {"label"}
    for file in files:
        table = _read(os.path.join(folder, file))
        if _FILE_NAME in table:
            columns |= table.keys() - {_FILE_NAME}
            if column in table:
                paths += [_join(folder, file, path) for path in table[_FILE_NAME]]
                values += table[column]
    if not paths and column == "label":
        return None
    if not paths:
        raise unknown("label column", column, columns)
    # Numbered over all splits together.
    labels = label_column(values, column, required=True)
    own = {os.path.join(folder, path) for path in images.paths}
    other_splits = {os.path.join(folder, *found.parts, name) for found in listing.folders for name in found.images} - own
    rows = [row for row, path in enumerate(paths) if path not in other_splits]
    unlisted = sorted(own - {paths[row] for row in rows})
    relative = [os.path.relpath(path, folder) for path in unlisted]
    notes = [f"{pluralize(len(unlisted), 'image')} not in {first_few(files)}, left out: {first_few(relative)}"] if unlisted else []
    return _split_from(folder, paths, labels, rows)._replace(notes=notes)


def _split_from(folder: str, paths: list[str | None], labels: Labels, rows: Sequence[int]) -> RawSplit:
    """The split that consists of these rows of the tables."""
    import pyarrow as arrow

    chosen = [paths[row] for row in rows]
    encoded = arrow.array([None if path is None else path.encode("utf-8", "surrogateescape") for path in chosen], arrow.binary())
    column = arrow.StructArray.from_arrays([arrow.nulls(len(chosen), arrow.binary()), encoded], ["bytes", "path"])
    values = None if labels.values is None else labels.values[torch.tensor(rows, dtype=torch.int64)]
    names = labels.names
    if values is None or not bool((values >= 0).any()):
        values = names = None
    return RawSplit(TableRows(arrow.chunked_array([column]), (folder,)), values, names, [], [], labels.reason)


def _join(folder: str, table: str, path: object) -> str | None:
    """The absolute path of an image in a table, without resolving links. `TableRows` refuses those that lead out of the folder."""
    if path is None:
        return None
    try:
        joined = os.path.normpath(os.path.join(folder, os.path.dirname(table), str(path)))
        joined.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can hold but a path cannot
        return None
    return joined


def _path_column(table: Table, file: str) -> str:
    """The column of image paths: "file_name", as in `datasets`, or else the only one whose first value ends like an image file."""
    if _FILE_NAME in table:
        return _FILE_NAME
    if any(ending_of(column) in image_endings() for column in table):
        line = display_name(", ".join(table))
        raise InputError(f"'{display_name(file)}' has no line with the names of its columns: it begins with {line}")
    first = {column: next((value for value in values if value is not None), "") for column, values in table.items()}
    found = [column for column, value in first.items() if ending_of(str(value)) in image_endings()]
    found = found or [column for column, value in first.items() if ending_of(str(value)) in ARRAYS]
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(f"several columns of '{display_name(file)}' hold paths to images, choose one as image_column: {', '.join(found)}")
    raise InputError(f"no column of '{display_name(file)}' holds paths to images; the columns are: {display_name(', '.join(table))}")


def _read(file: str) -> Table:
    """The texts of a CSV file, or the values of a JSON lines or Parquet file. A line that is not JSON is a row without values."""
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
                if len({*columns}) < len(columns):
                    raise InputError(f"two columns of '{display_name(file)}' have the same name: {display_name(', '.join(columns))}")
        return {column: [None if row.get(column) == "" else row.get(column) for row in rows] for column in columns}
    except InputError:
        raise
    except (OSError, ValueError, csv.Error) as error:  # Arrow's errors are ValueErrors
        raise InputError(f"cannot read '{display_name(file)}': {first_line(error)}") from error


def _object(line: str) -> dict:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
