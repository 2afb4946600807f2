"""A split before decoding: its encoded images, its labels, and notes for the user."""

from typing import NamedTuple, Protocol

import numpy as np
from torch import Tensor

from .columns import NO_LABELS


class Rows(Protocol):
    """The encoded images of a split: `TableRows`, `FileRows` or `ArchiveRows`."""

    def __len__(self) -> int: ...

    def encoded(self, row: int) -> bytes:
        """The bytes (a buffer) of the image file. Raises `BrokenImage`."""

    def name(self, row: int) -> str:
        """The row's path, as `names.utf8_path` writes it, or "row 17" without one."""

    def lengths(self) -> np.ndarray:
        """int64 (rows,): bytes of each image file, -1 where there is none. Reads no image."""


class Request(NamedTuple):
    """Which split and columns of a data set the user wants; None: to be found."""

    split: str
    image_column: str | None
    label_column: str | None

    def without_none(self) -> "Request":
        """The request for data without a column called "none", where that means no labels."""
        return self._replace(label_column=None) if self.label_column == NO_LABELS else self


class RawSplit(NamedTuple):
    """The rows of one split.

    labels: int64 (rows,) on the CPU, -1 for a row without a label; None if no row has one.
    splits: the names of all splits of the data set.
    notes: what the user may not expect, above all what is skipped.
    unlabelled: why `labels` is None although labels might be expected; else "".
    """

    rows: Rows
    labels: Tensor | None
    label_names: list[str] | None
    splits: list[str]
    notes: list[str]
    unlabelled: str = ""
