"""Text from outside (data sets' names, hardware, what a hand put into results.json) as plain words in Markdown."""

import re
from pathlib import Path
from typing import Any

import jinja2

_LONGEST = 200  # characters


def one_line(text: object) -> str:
    """The text without line breaks, control characters and what turns the direction of writing, 200 characters at most."""
    words = " ".join(str(text).split())
    shown = "".join(character for character in words if character.isprintable())
    return shown if len(shown) <= _LONGEST else shown[: _LONGEST - 1] + "…"


def escape(text: object) -> str:
    """The text such that Markdown, HTML in it, and tables show it as it is."""
    return re.sub(r"([\\`*_{}\[\]<>|~$&])", r"\\\1", one_line(text))


class Verbatim(str):
    """Text that is put into a card as it is."""


def render(template: Path, values: dict[str, Any]) -> str:
    """The template with its values, every one escaped but those that the template itself passes through `verbatim`."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
        finalize=lambda value: value if isinstance(value, Verbatim) else escape(value),
    )  # fmt: skip
    environment.filters["verbatim"] = Verbatim
    return environment.from_string(template.read_text(encoding="utf-8")).render(values)
