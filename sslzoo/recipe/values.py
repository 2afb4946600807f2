"""Checks of single values: type and range."""

import math
import os
import types
import typing
import unicodedata
from typing import Any

from sslzoo.errors import InputError
from sslzoo.views import LARGEST


def typed(key: str, value: Any, wanted: Any) -> Any:
    """`value` converted to the type `wanted`. A float may be given as an integer or a text such as 1e-6, which YAML reads as a string.

    Raises `InputError`.
    """
    options = typing.get_args(wanted) if typing.get_origin(wanted) in (types.UnionType, typing.Union) else (wanted,)
    if value is None and types.NoneType in options:
        return None
    if isinstance(value, int) and abs(value) >= 2**63:
        raise InputError(f"{key} is {shown(value)}: that is too large a number")
    for option in options:
        origin, inner = typing.get_origin(option), typing.get_args(option)
        if origin is typing.Literal:
            if value in inner:
                return value
        elif origin is tuple or origin is list:
            if isinstance(value, (list, tuple)) and value and (inner[-1] is Ellipsis or origin is list or len(value) == len(inner)):
                return tuple(typed(key, item, inner[0]) for item in value)
        elif origin is dict:
            if isinstance(value, dict) and all(isinstance(name, str) for name in value):
                return value
        elif option is float and not isinstance(value, bool):
            try:
                number = float(value)
            except (TypeError, ValueError, OverflowError):
                continue
            if math.isfinite(number):
                return number
        elif option is bool and isinstance(value, bool) or option is int and isinstance(value, int) and not isinstance(value, bool):
            return value
        elif option is str and isinstance(value, (str, os.PathLike)) and _is_text(str(value)):
            return str(value)
    raise InputError(f"{key} is {shown(value)}: must be {_described(options)}")


def check_range(key: str, value: float, low: float, high: float) -> None:
    """Raises `InputError` for a value outside of [low, high]."""
    if not low <= value <= high:
        raise InputError(f"{key} is {shown(value)}: must be from {low} to {high}")


def pixels(key: str, value: float, image_size: int, unit: int) -> int:
    """A size in px from an integer (px) or a float: a share of the image size, rounded to multiples of `unit` px.

    Raises `InputError`.
    """
    if isinstance(value, float):
        if not 0 < value <= 4:
            raise InputError(f"{key} is {shown(value)}: must be a whole number of px, or a share of image_size, above 0 and up to 4.0")
        value = unit * max(1, round(value * image_size / unit))
    check_range(key, value, 1, LARGEST)
    return value


def shown(value: Any) -> str:
    """The value as text for an error message, at most 80 characters."""
    try:
        text = repr(value)
    except ValueError:  # more digits than Python converts
        text = "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def _is_text(text: str) -> bool:
    """Whether the text is one line of valid UTF-8, no longer than a path may be."""
    return len(text) <= 4096 and not {unicodedata.category(letter) for letter in text} & {"Cc", "Cs", "Zl", "Zp"}


def _described(options: tuple) -> str:
    names = {int: "a whole number", float: "a number", str: "text in one line", bool: "true or false", types.NoneType: "null"}
    descriptions = []
    for option in options:
        if option in names:
            descriptions.append(names[option])
        elif typing.get_origin(option) is dict:
            descriptions.append("keys and values")
        elif typing.get_origin(option) is typing.Literal:
            descriptions.extend(map(str, typing.get_args(option)))
        elif (inner := typing.get_args(option))[-1] is Ellipsis:
            descriptions.append(f"a list with at least one {'number' if inner[0] is float else 'text'}")
        else:
            descriptions.append(f"a list of {len(inner)} numbers")
    return " or ".join(dict.fromkeys(descriptions))
