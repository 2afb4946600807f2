"""Values from outside, asked for by kind."""

import datetime
import math
import re
from collections.abc import Callable
from typing import Any

from sslzoo.errors import InputError

from .markdown import one_line

WORD = re.compile(r"[A-Za-z0-9][\w.+-]{0,63}", re.ASCII)  # a method, an encoder, a metric, a protocol
# Whatever else a text may say, it opens no tag, link or code in HTML or Markdown and does not turn the direction of writing.
TEXT = re.compile(r"[\w .,:;@+/#()&'®™%=-]{1,200}")
DIGEST = re.compile(r"[0-9a-f]{64}")
_KINDS = {WORD: "one short word", TEXT: "short plain text", DIGEST: "64 hexadecimal digits"}


class Fields:
    """A mapping from outside, `where` in messages. Every method raises `InputError` naming the key and what it must be."""

    def __init__(self, values: Any, where: str):
        if not isinstance(values, dict):
            raise InputError(f"{where} is {shown(values)}: must be keys and values")
        self._values, self._where = values, where

    def _get(self, key: str, sound: Callable[[Any], bool], wanted: str) -> Any:
        if key not in self._values:
            raise InputError(f"{self._where} lacks '{key}'")
        value = self._values[key]
        if not sound(value):
            raise InputError(f"{self._where} has {key}: {shown(value)}, must be {wanted}")
        return value

    def text(self, key: str, pattern: re.Pattern | None = TEXT) -> str:
        """pattern: one of `WORD`, `TEXT` and `DIGEST`; None: any text."""
        if isinstance(self._values.get(key), datetime.date):
            return self._values[key].isoformat()
        if pattern is None:
            return self._get(key, lambda value: isinstance(value, str), "text")
        sound = lambda value: isinstance(value, str) and len(value) <= 200 and pattern.fullmatch(value) is not None  # noqa: E731
        return self._get(key, sound, _KINDS[pattern])

    def number(self, key: str, most: float) -> float:
        return float(self._get(key, lambda value: is_number(value) and 0 <= value <= most, f"a number from 0 to {most:g}"))

    def whole(self, key: str, least: int, most: int) -> int:
        sound = lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value <= most  # noqa: E731
        return self._get(key, sound, f"a whole number from {least} to {most}")

    def mapping(self, key: str, most: int) -> dict:
        return self._get(key, lambda value: isinstance(value, dict) and len(value) <= most, f"at most {most} keys and values")

    def rows(self, key: str, most: int) -> list:
        return self._get(key, lambda value: isinstance(value, list) and len(value) <= most, f"a list of at most {most}")

    def texts(self, key: str, most: int) -> list[str] | dict[str, str]:
        """A list of texts, or a mapping to texts."""
        sound = lambda value: isinstance(value, (list, dict)) and len(value) <= most and all(  # noqa: E731
            isinstance(text, str) for text in (value.values() if isinstance(value, dict) else value)
        )
        return self._get(key, sound, f"at most {most} texts")

    def has(self, key: str) -> bool:
        return self._values.get(key) is not None


def is_number(value: Any) -> bool:
    """Whether it is a finite number that a computation can take."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e15 and math.isfinite(value)


def shown(value: Any) -> str:
    """A value for a message: short, and without going into what may be large."""
    if isinstance(value, (list, dict)):
        return f"a {'list' if isinstance(value, list) else 'mapping'} of {len(value)}"
    text = one_line(value[:60]) if isinstance(value, str) else str(value) if isinstance(value, (bool, float, type(None))) else ""
    if isinstance(value, int) and not isinstance(value, bool):
        text = str(value) if abs(value) < 1e15 else "a huge number"
    return f"'{text}'" if isinstance(value, str) else text or f"a {type(value).__name__}"
