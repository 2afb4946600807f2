"""Renders Markdown templates with untrusted text (data set names, hardware, edited results.json), every value escaped."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

_MAX_LENGTH = 200  # characters


def one_line(text: object) -> str:
    """The text without line breaks, control characters and changes of writing direction; at most 200 characters."""
    words = " ".join(str(text).split())
    line = "".join(character for character in words if character.isprintable())
    return line if len(line) <= _MAX_LENGTH else line[: _MAX_LENGTH - 1] + "…"


def escape(text: object) -> str:
    """The text on one line, escaped so that Markdown, its inline HTML and its tables show it literally."""
    return re.sub(r"([\\`*_{}\[\]<>|~$&])", r"\\\1", one_line(text))


class Verbatim(str):
    """Text that `render` does not escape."""


def render(template: Path, values: dict[str, Any]) -> str:
    """The template with its values; each is escaped unless the template passes it through the filter `verbatim`."""
    return _compiled(template.read_text(encoding="utf-8")).render(values)


@cache
def _compiled(text: str) -> jinja2.Template:
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
        finalize=lambda value: value if isinstance(value, Verbatim) else escape(value),
    )  # fmt: skip
    environment.filters["verbatim"] = Verbatim
    return environment.from_string(text)
