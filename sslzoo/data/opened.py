"""What is known of a split once its data set is opened, whatever it is stored as."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from .columns import NO_LABELS
from .listing import counted, some


class AnyRows(Protocol):
    """The encoded images of one split: `Rows`, `FileRows` or `ArchiveRows`."""

    def __len__(self) -> int: ...

    def encoded(self, row: int) -> bytes:
        """The image's encoded bytes (a buffer). Raises `BrokenImage`."""

    def name(self, row: int) -> str:
        """The row's path as `names.text_of` gives it, else "row 17"."""

    def lengths(self) -> np.ndarray:
        """int64 (rows,): encoded bytes of each image, -1 where there are none; reads no image."""


class Asked(NamedTuple):
    """What of a data set is wanted."""

    split: str
    image_column: str | None
    label_column: str | None

    def without_none(self) -> "Asked":
        """The same where no column is called "none", which then says that no labels are wanted."""
        return self._replace(label_column=None) if self.label_column == NO_LABELS else self


class Opened(NamedTuple):
    """The rows of one split.

    labels: int64 (rows,) on the CPU, -1 for a row without one; None where there are none.
    splits: names of all the splits of the data set.
    notes: what the user may not expect, first of all what is left out.
    unlabelled: why `labels` is None where there might be some, in words.
    """

    rows: AnyRows
    labels: Tensor | None
    label_names: list[str] | None
    splits: list[str]
    notes: list[str]
    unlabelled: str = ""


def numbered(values: Sequence[str | int | None]) -> tuple[list[int], list[str] | None]:
    """Labels as whole numbers, -1 for None, and the classes' names in order: texts are classes, whole numbers (also as texts) labels."""
    known = [value for value in values if value is not None]
    try:
        # "01" and "1" would be one number: such texts are names.
        if all(str(int(value)) == str(value) and int(value) >= 0 for value in known):
            return [-1 if value is None else int(value) for value in values], None
    except (ValueError, TypeError):
        pass
    names = sorted({str(value) for value in known})
    number = {name: label for label, name in enumerate(names)}
    return [-1 if value is None else number[str(value)] for value in values], names


def as_tensor(labels: list[int] | None, names: list[str]) -> tuple[Tensor | None, list[str]]:
    """Labels of the images of these names, None where none has one; and a note that names those that have none where others have one."""
    missing = [name for name, label in zip(names, labels or [], strict=False) if label < 0]
    if labels is None or len(missing) == len(labels):
        return None, []
    return torch.tensor(labels), [f"{counted(len(missing), 'image')} without a label: {some(missing)}"] if missing else []
