"""What is known of a split once its data set is opened, whatever it is stored as."""

from typing import NamedTuple, Protocol

import numpy as np
from torch import Tensor

from .columns import NO_LABELS


class Rows(Protocol):
    """The encoded images of one split: `TableRows`, `FileRows` or `ArchiveRows`."""

    def __len__(self) -> int: ...

    def encoded(self, row: int) -> bytes:
        """The image's encoded bytes (a buffer). Raises `BrokenImage`."""

    def name(self, row: int) -> str:
        """The row's path as `names.utf8_path` gives it, else "row 17"."""

    def lengths(self) -> np.ndarray:
        """int64 (rows,): encoded bytes of each image, -1 where there are none; reads no image."""


class Request(NamedTuple):
    """What of a data set is wanted."""

    split: str
    image_column: str | None
    label_column: str | None

    def without_none(self) -> "Request":
        """The same where no column is called "none", which then says that no labels are wanted."""
        return self._replace(label_column=None) if self.label_column == NO_LABELS else self


class RawSplit(NamedTuple):
    """The rows of one split.

    labels: int64 (rows,) on the CPU, -1 for a row without one; None where there are none.
    splits: names of all the splits of the data set.
    notes: what the user may not expect, first of all what is left out.
    unlabelled: why `labels` is None where there might be some, in words.
    """

    rows: Rows
    labels: Tensor | None
    label_names: list[str] | None
    splits: list[str]
    notes: list[str]
    unlabelled: str = ""
