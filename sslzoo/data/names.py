"""What a data set is called in public."""

import re
from pathlib import Path

EMBEDDED = "digits"


def hub_id(source: str) -> tuple[str, str | None] | None:
    """Id and configuration of a Hub data set, from "namespace/name" or "namespace/name@configuration"; None for anything else."""
    name, at, configuration = source.partition("@")
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name, re.ASCII) or Path(source).suffix == ".parquet" or Path(source).exists():
        return None
    return name, configuration if at else None


def source_name(source: str) -> str:
    """A Hub data set's id, of a local folder or file the last part alone: where it lies is nobody's business."""
    return source if hub_id(source) else Path(source).name or source
