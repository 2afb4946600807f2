"""Label columns of any kind as classes 0, 1, 2 ..., with -1 for an image that has none."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sslzoo.errors import InputError

_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?|[Nn]a[Nn]")  # not "01", which is a name
_MISSING = ("", "-1")  # texts that mean no label


class Labels(NamedTuple):
    """values: int64 (rows,), -1 where a row has no label; None where no row has one. names: the classes' names by label, if any.

    reason: why there are no labels although the column might hold some.
    """

    values: Tensor | None
    names: list[str] | None
    reason: str = ""


class _NotClasses(Exception):
    """The values of a column are not classes; the message says what they are."""


def read_labels(column, name: str, names: list[str] | None, required: bool) -> Labels:
    """The labels of an Arrow column. -1, null, NaN, "" and "-1" mean that a row has no label.

    names: the class names that the data set declares, which the column indexes. Without them, texts and booleans become classes in sorted
    order; integers, also stored as floats, are kept and have no names.
    required: raise `InputError` if the values are not classes, such as fractions. Integers that no class can have always raise it.
    """
    try:
        return _read(column, name, names)
    except _NotClasses as error:
        if required:
            raise InputError(str(error)) from error
        return Labels(None, None, str(error))


def label_column(values: Sequence[Any], name: str, required: bool) -> Labels:
    """`read_labels` for Python values: texts of a CSV file, where numbers are texts too, or values of JSON."""
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
        names = sorted(value for value in compute.unique(column).to_pylist() if value is not None and value not in _MISSING)
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
        return Labels(None, None)  # as the Hub publishes test splits with secret labels
    wrong = ((labels < -1) | (labels >= (len(names) if names else 2**63 - 1))).nonzero()
    if len(wrong):
        row = int(wrong[0])
        classes = f" of {len(names)} classes" if names else ""
        raise InputError(f"row {row} has the label {int(labels[row])} in column '{name}'{classes}: labels are 0, 1, 2 ..., or -1 for none")
    return Labels(labels, names)


def _too_large(name: str) -> str:
    return f"column '{name}' has labels of 2**63 or more, which are too large"


def as_classes(labels: Tensor | None, names: list[str] | None) -> tuple[Tensor | None, list[str] | None]:
    """Numbers without names as classes 0, 1, 2 ... in ascending order, named by their numbers. The numbers may be arbitrarily large."""
    if labels is None or names is not None:
        return labels, names
    values, classes = labels.unique(return_inverse=True)
    missing = int(values[0] < 0)  # -1 comes first
    return classes - missing, [str(value) for value in values[missing:].tolist()]
