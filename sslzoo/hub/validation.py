"""Type and range checks on values that anyone may have written: in a card on the Hub, in results.json, in metrics.jsonl."""

import datetime
import math
import re
from collections.abc import Callable
from typing import Any

from sslzoo.errors import InputError

from .markdown import one_line

WORD = re.compile(r"[A-Za-z0-9][\w.+-]{0,63}", re.ASCII)  # a method, an encoder, a metric, a protocol
# No text of these characters can open a tag, a link or code in HTML or Markdown, or change the direction of writing.
TEXT = re.compile(r"[\w .,:;@+/#()&'®™%=-]{1,200}")
DIGEST = re.compile(r"[0-9a-f]{64}")
_DESCRIPTIONS = {WORD: "one short word", TEXT: "short plain text", DIGEST: "64 hexadecimal digits"}


class UntrustedMapping:
    """A mapping that anyone may have written; `where` names it in messages.

    Every getter raises `InputError`, which names the key and says what its value must be.
    """

    def __init__(self, values: Any, where: str):
        if not isinstance(values, dict):
            raise InputError(f"{where} is {preview(values)}: must be keys and values")
        self._values, self._where = values, where

    def _get(self, key: str, is_valid: Callable[[Any], bool], expected: str) -> Any:
        if key not in self._values:
            raise InputError(f"{self._where} lacks '{key}'")
        value = self._values[key]
        if not is_valid(value):
            raise InputError(f"{self._where} has {key}: {preview(value)}, must be {expected}")
        return value

    def text(self, key: str, pattern: re.Pattern | None = TEXT) -> str:
        """A date in ISO format, or a text. pattern: `WORD`, `TEXT` or `DIGEST`; None: any text."""
        if isinstance(self._values.get(key), datetime.date):
            return self._values[key].isoformat()
        if pattern is None:
            return self._get(key, lambda value: isinstance(value, str), "text")
        is_valid = lambda value: isinstance(value, str) and len(value) <= 200 and pattern.fullmatch(value) is not None  # noqa: E731
        return self._get(key, is_valid, _DESCRIPTIONS[pattern])

    def number(self, key: str, maximum: float) -> float:
        """A finite number from 0 to `maximum`."""
        return float(self._get(key, lambda value: is_number(value) and 0 <= value <= maximum, f"a number from 0 to {maximum:g}"))

    def integer(self, key: str, minimum: int, maximum: int) -> int:
        is_valid = lambda value: isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= maximum  # noqa: E731
        return self._get(key, is_valid, f"a whole number from {minimum} to {maximum}")

    def mapping(self, key: str, max_length: int) -> dict:
        return self._get(
            key, lambda value: isinstance(value, dict) and len(value) <= max_length, f"at most {max_length} keys and values"
        )  # fmt: skip

    def sequence(self, key: str, max_length: int) -> list:
        return self._get(key, lambda value: isinstance(value, list) and len(value) <= max_length, f"a list of at most {max_length}")

    def texts(self, key: str, max_length: int) -> list[str] | dict[str, str]:
        """A list of texts, or a mapping to texts."""
        is_valid = lambda value: isinstance(value, (list, dict)) and len(value) <= max_length and all(  # noqa: E731
            isinstance(text, str) for text in (value.values() if isinstance(value, dict) else value)
        )
        return self._get(key, is_valid, f"at most {max_length} texts")

    def has(self, key: str) -> bool:
        """Whether the key is there with a value other than None."""
        return self._values.get(key) is not None


def is_number(value: Any) -> bool:
    """Whether it is a finite int or float (no bool) below 1e15 in size."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e15 and math.isfinite(value)


def preview(value: Any) -> str:
    """A value for an error message: short, and computed without walking through a large value."""
    if isinstance(value, (list, dict)):
        return f"a {'list' if isinstance(value, list) else 'mapping'} of {len(value)}"
    text = one_line(value[:60]) if isinstance(value, str) else str(value) if isinstance(value, (bool, float, type(None))) else ""
    if isinstance(value, int) and not isinstance(value, bool):
        text = str(value) if abs(value) < 1e15 else "a huge number"
    return f"'{text}'" if isinstance(value, str) else text or f"a {type(value).__name__}"
