"""Names of data sets, and of the images in them."""

import os
import re
from pathlib import Path

EMBEDDED = "digits"
_FILES = (".parquet", ".csv", ".tsv", ".jsonl", ".tar", ".zip")
_ESCAPE = re.compile(rb"\\(?=x[0-9a-f]{2})")


def hub_id(source: str) -> tuple[str, str | None] | None:
    """The id and configuration in "namespace/name" or "namespace/name@configuration"; None for what is no Hub data set."""
    name, at, configuration = source.partition("@")
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name, re.ASCII) or is_data_file(source) or os.path.exists(source):
        return None
    return name, configuration if at else None


def is_data_file(source: str) -> bool:
    """Whether the name ends like a file of images: Parquet, a table of paths, or an archive."""
    return source.lower().endswith(_FILES)


def source_name(source: str) -> str:
    """The public name: a Hub data set's id, or the last part of a local path, whose folders are private."""
    return source if hub_id(source) else Path(source).name or source


def utf8_path(path: str) -> str:
    r"""A path as valid UTF-8, unique for every path: bytes that are not UTF-8 become escapes such as \xe9.

    The backslash of a path that itself holds such an escape becomes \x5c.
    """
    if path.isascii() and "\\" not in path:
        return path
    return _ESCAPE.sub(rb"\\x5c", os.fsencode(path)).decode("utf-8", "backslashreplace")
