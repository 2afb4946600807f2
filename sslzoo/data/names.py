"""What a data set is called in public."""

import os
import re
from pathlib import Path

EMBEDDED = "digits"
_FILES = (".parquet", ".csv", ".tsv", ".jsonl", ".tar", ".zip")
_ESCAPED = re.compile(rb"\\(?=x[0-9a-f]{2})")
_SHOWN = 250  # characters of a name in a message


def hub_id(source: str) -> tuple[str, str | None] | None:
    """Id and configuration of a Hub data set, from "namespace/name" or "namespace/name@configuration"; None for anything else."""
    name, at, configuration = source.partition("@")
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name, re.ASCII) or is_data_file(source) or os.path.exists(source):
        return None
    return name, configuration if at else None


def is_data_file(source: str) -> bool:
    """Whether this can only be the name of a file with images: Parquet, a table of paths, or an archive."""
    return source.lower().endswith(_FILES)


def source_name(source: str) -> str:
    """A Hub data set's id, of a local folder or file the last part alone: where it lies is nobody's business."""
    return source if hub_id(source) else Path(source).name or source


def utf8_path(path: str) -> str:
    r"""A path as text that any file can hold, and that tells every path from every other: bytes that are no UTF-8 become \xe9.

    Where a path itself holds such a group, its backslash becomes \x5c.
    """
    return _ESCAPED.sub(rb"\\x5c", os.fsencode(path)).decode("utf-8", "backslashreplace")


def shown(name: str) -> str:
    """A name in a message: on one line, without what disturbs a terminal, and not too long."""
    clean = "".join(letter if letter.isprintable() else letter.encode("unicode_escape", "surrogatepass").decode() for letter in name)
    return clean if len(clean) <= _SHOWN else f"{clean[: _SHOWN // 2]} ... {clean[-_SHOWN // 2 :]}"
