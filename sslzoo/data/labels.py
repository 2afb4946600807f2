"""Label columns of any kind as classes 0, 1, 2 ..., with -1 for an image that has none."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sslzoo.errors import InputError

_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?|[Nn]a[Nn]")  # "01" is a name: as a number it would be "1"
_NONE = ("", "-1")  # texts of a row without a label


class Labels(NamedTuple):
    """values: int64 (rows,), -1 where a row has no label; None where no row has one. names: the classes' names by label, if any.

    reason: why there are no labels although the column might hold some.
    """

    values: Tensor | None
    names: list[str] | None
    reason: str = ""


class _NotClasses(Exception):
    """The column's values are no classes; the message says what they are."""


def read_labels(column, name: str, names: list[str] | None, required: bool) -> Labels:
    """The labels of an Arrow column. -1, null, NaN, an empty text and the text "-1" are rows without a label.

    names: those that the data set states, whose numbers the column holds. Otherwise texts and truth values become classes in sorted order,
    and whole numbers, also written as floating-point ones, stay what they are, without names.
    required: raise `InputError` for values that are no classes, such as fractions. A number that no class can have always raises it.
    """
    try:
        return _read(column, name, names)
    except _NotClasses as error:
        if required:
            raise InputError(str(error)) from error
        return Labels(None, None, str(error))


def label_column(values: Sequence[Any], name: str, required: bool) -> Labels:
    """The labels among plain values, as `read_labels` reads them: texts of a CSV file, values of JSON. Numbers may be written as texts."""
    import pyarrow as arrow

    if any(isinstance(value, list | dict) for value in values):
        reason = f"column '{name}' holds lists or structures, which are no classes"
        if required:
            raise InputError(reason)
        return Labels(None, None, reason)
    kinds = {type(value) for value in values if value is not None}
    if not kinds <= {bool} and not kinds <= {int, float}:
        values = [None if value is None else str(value) for value in values]
        known = [value for value in values if value]
        if all(map(_NUMBER.fullmatch, known)):
            number = int if all(value.lstrip("-").isdigit() for value in known) else float
            values = [number(value) if value else None for value in values]
    try:
        return read_labels(arrow.chunked_array([arrow.array(values)]), name, None, required)
    except OverflowError as error:
        raise InputError(_too_large(name)) from error


def _read(column, name: str, names: list[str] | None) -> Labels:
    import pyarrow as arrow
    import pyarrow.compute as compute

    kind = column.type
    if arrow.types.is_boolean(kind):
        column, names = column.cast("int8"), ["False", "True"]
    elif arrow.types.is_string(kind) or arrow.types.is_large_string(kind):
        names = sorted(value for value in compute.unique(column).to_pylist() if value is not None and value not in _NONE)
        column = compute.index_in(column, arrow.array(names, kind))
    elif arrow.types.is_floating(kind):
        values = column.to_numpy()
        known = values[~np.isnan(values)]
        if (known != np.floor(known)).any():
            raise _NotClasses(f"column '{name}' holds fractions such as {known[known != np.floor(known)][0]:g}, which are no classes")
        column = arrow.chunked_array([arrow.array(values, mask=np.isnan(values))])
    try:
        labels = torch.from_numpy(column.cast("int64").fill_null(-1).to_numpy().copy())
    except arrow.ArrowInvalid as error:
        raise InputError(_too_large(name)) from error
    if bool((labels == -1).all()):
        return Labels(None, None)  # how the Hub publishes test splits whose labels are kept back
    wrong = ((labels < -1) | (labels >= (len(names) if names else 2**63 - 1))).nonzero()
    if len(wrong):
        row = int(wrong[0])
        classes = f" of {len(names)} classes" if names else ""
        raise InputError(f"row {row} has the label {int(labels[row])} in column '{name}'{classes}: labels are 0, 1, 2 ..., or -1 for none")
    return Labels(labels, names)


def _too_large(name: str) -> str:
    return f"column '{name}' has labels of 2**63 or more, which are too large"


def as_classes(labels: Tensor | None, names: list[str] | None) -> tuple[Tensor | None, list[str] | None]:
    """Labels that have no names as classes 0, 1, 2 ... in their order, named by their numbers: these may be as large as they like."""
    if labels is None or names is not None:
        return labels, names
    values, numbered = labels.unique(return_inverse=True)
    without = int(values[0] < 0)
    return numbered - without, [str(value) for value in values[without:].tolist()]
