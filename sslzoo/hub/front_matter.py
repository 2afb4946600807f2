"""Reads a model card's YAML front matter and text; anyone may have written them, so time and memory are bounded."""

import re
from pathlib import Path
from typing import Any

import yaml

try:
    from yaml import CSafeLoader as _SafeLoader
except ImportError:
    from yaml import SafeLoader as _SafeLoader

from sslzoo.errors import InputError, first_line

_MAX_LENGTH = 200_000  # characters of a card, or of its front matter; ours have about 10,000
_MAX_DEPTH = 20


def read_card(file: Path) -> tuple[str, str]:
    """The YAML front matter of a card, "" where there is none, and the text below it. Raises `InputError`."""
    try:
        with open(file, encoding="utf-8", errors="replace") as card:
            return split_card(card.read(_MAX_LENGTH))
    except OSError as error:
        raise InputError(f"cannot read {file}: {first_line(error)}") from error


def split_card(text: str) -> tuple[str, str]:
    """`read_card` for a card's text."""
    match = re.match(r"---\n(.*?)^---$", text, re.DOTALL | re.MULTILINE)
    if match:
        return match[1], text[match.end() :]
    return (text, "") if text.startswith("---\n") else ("", text)


def parse_front_matter(text: str) -> Any:
    """The value of the YAML. Time and memory are proportional to the text's length. Raises `InputError`."""
    if len(text) >= _MAX_LENGTH:
        raise InputError(f"the metadata has {_MAX_LENGTH:,} characters or more")
    try:
        depth = 0
        for event in yaml.parse(text, Loader=_Loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _MAX_DEPTH:  # deep nesting crashes the process in the C loader
                raise InputError(f"the metadata is nested more than {_MAX_DEPTH} deep")
            if isinstance(event, yaml.AliasEvent):  # a few lines of aliases can expand to more than the memory holds
                raise InputError("the metadata uses YAML aliases")
        return yaml.load(text, Loader=_Loader)
    except InputError:
        raise
    except Exception as error:  # PyYAML lets errors of Python's own conversions through, such as KeyError for "!!bool x"
        raise InputError(f"the metadata is not valid YAML: {first_line(error)}") from error


class _Loader(_SafeLoader):  # pyrefly: ignore[invalid-inheritance]
    """PyYAML's C loader where it is available: 500 cards take 0.2 s instead of 1.3."""
