"""A card's two parts, its metadata in YAML and its text, read as what a stranger may have written."""

import re
from pathlib import Path
from typing import Any

import yaml

from sslzoo.errors import InputError, first_line

MOST_TEXT = 200_000  # characters of a card or of its metadata; ours have about 10,000
_MOST_DEPTH = 20


def read_card(file: Path) -> tuple[str, str]:
    """The YAML at the head of a card, "" where there is none, and the text below it. Raises `InputError`."""
    try:
        with open(file, encoding="utf-8", errors="replace") as card:
            return split_card(card.read(MOST_TEXT))
    except OSError as error:
        raise InputError(f"cannot read {file}: {first_line(error)}") from error


def split_card(text: str) -> tuple[str, str]:
    """As `read_card`, of a card's text."""
    match = re.match(r"---\n(.*?)^---$", text, re.DOTALL | re.MULTILINE)
    if match:
        return match[1], text[match.end() :]
    return (text, "") if text.startswith("---\n") else ("", text)


def parsed(text: str) -> Any:
    """What the metadata says. Never takes more time or memory than its length allows. Raises `InputError`."""
    if len(text) >= MOST_TEXT:
        raise InputError(f"the metadata has {MOST_TEXT:,} characters or more")
    try:
        depth = 0
        for event in yaml.parse(text, Loader=_Loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _MOST_DEPTH:  # the loader in C crashes the process
                raise InputError(f"the metadata is nested more than {_MOST_DEPTH} deep")
            if isinstance(event, yaml.AliasEvent):  # a few lines of them can stand for more than the memory holds
                raise InputError("the metadata uses YAML aliases")
        return yaml.load(text, Loader=_Loader)
    except InputError:
        raise
    except Exception as error:  # PyYAML lets the errors of Python's own conversions through, such as KeyError for "!!bool x"
        raise InputError(f"the metadata is no YAML: {first_line(error)}") from error


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """In C where PyYAML has it: 500 cards take 0.2 s instead of 1.3."""
