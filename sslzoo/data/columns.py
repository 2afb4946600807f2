"""Which columns of a data set hold the images and the labels."""

import re
from collections.abc import Iterable

from sslzoo.errors import InputError, unknown

from .array_rows import axes_and_type, holds_images

NO_LABELS = "none"  # as label_column: ignore labels
_LABEL_NAME = re.compile(r"(^|[_ .-])(labels?|class|classes|category|categories|targets?|y)($|[_ .-])", re.IGNORECASE)
_SCALAR = re.compile(r"u?int\d+|float\d+|bool|string|large_string|null")


def find_image_column(features, name: str | None) -> str:
    """The column called `name`, else the only `Image` column, else the one called "image". Raises `InputError`.

    If no column is an `Image`, as in Parquet files of pandas, columns of bytes and of (bytes, path) are candidates; without them, those
    of arrays (see `array_rows.holds_images`).
    """
    from datasets import Image

    plain = [column for column, feature in features.items() if _holds_bytes(feature)]
    arrays = [column for column, feature in features.items() if holds_images(feature)]
    images = [column for column, feature in features.items() if isinstance(feature, Image)] or plain or arrays
    if name is not None:
        if name not in features:
            raise unknown("image column", name, images or features)
        if name not in images and name not in plain and name not in arrays:
            kind = _kind(features[name])
            hint = _typed_arrays(features[name]) or f"; choose from: {', '.join(images) or '(none)'}"
            raise InputError(f"column '{name}' holds no encoded images but {kind}{hint}")
        return name
    if len(images) == 1 or "image" in images:
        return "image" if "image" in images else images[0]
    if images:
        raise InputError(f"several columns hold images, choose one as image_column: {', '.join(images)}")
    hint = next(filter(None, map(_typed_arrays, features.values())), "")
    raise InputError(f"no column holds images; the columns are: {', '.join(features)}{hint}")


def find_label_column(features, name: str | None) -> tuple[str | None, str]:
    """The label column and "", or None and the reason why there is none although there might be one.

    The column called `name`; else "label"; else the only `ClassLabel` column; else, without such columns, the only one whose name says
    that it holds labels and whose type allows it. Raises `InputError` if `name` is not a column of labels.
    """
    from datasets import ClassLabel

    classes = [column for column, feature in features.items() if isinstance(feature, ClassLabel)]
    possible = [column for column, feature in features.items() if column in classes or _SCALAR.fullmatch(_kind(feature))]
    if name == NO_LABELS and name not in features:
        return None, ""
    if name is not None:
        if name not in features:
            raise unknown("label column", name, classes or features)
        if name not in possible:
            raise InputError(f"column '{name}' holds no labels (classes, texts or whole numbers) but {_kind(features[name])}")
        return name, ""
    if "label" in possible:
        return "label", ""
    found, reason = _only_one(classes or [column for column in possible if _LABEL_NAME.search(column)])
    if found or reason:
        return found, reason
    named = next((column for column in features if _LABEL_NAME.search(column)), None)
    return None, f"column '{named}' holds {_kind(features[named])}, which are no classes" if named else ""


def label_column_by_name(columns: Iterable[str]) -> tuple[str | None, str]:
    """As `find_label_column`, from names alone: "label", else the only column whose name says that it holds labels."""
    columns = list(columns)
    return ("label", "") if "label" in columns else _only_one([column for column in columns if _LABEL_NAME.search(column)])


def _only_one(found: list[str]) -> tuple[str | None, str]:
    if len(found) > 1:
        return None, f"several columns may hold labels, choose one as label_column: {', '.join(found)}"
    return (found[0] if found else None), ""


def _holds_bytes(feature) -> bool:
    encoded = feature.get("bytes") if isinstance(feature, dict) else feature
    return _kind(encoded) in ("binary", "large_binary")


def _typed_arrays(feature) -> str:
    """What to do about arrays that might be images but for their type; "" for other features."""
    axes, dtype = axes_and_type(feature)
    return f"; arrays of {dtype} state no black and white: cast them to uint8, uint16 or int16" if axes in (2, 3) else ""


def _kind(feature) -> str:
    if isinstance(feature, dict):
        return f"structures of {', '.join(feature)}"
    inner = getattr(feature, "feature", None)
    if inner is not None or isinstance(feature, list):
        return f"lists of {_kind(inner if inner is not None else feature[0])}"
    return getattr(feature, "dtype", None) or type(feature).__name__
