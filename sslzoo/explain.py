"""What a recipe says: every key with its value, where the value comes from, and what the key means."""

import dataclasses
import re
from pathlib import Path
from typing import Any, NamedTuple

from sslzoo.method import MethodConfig
from sslzoo.methods import method_class
from sslzoo.recipe import METRICS, Recipe, read_recipe, read_values
from sslzoo.recipe.yaml_files import find_recipe
from sslzoo.views import View


class Setting(NamedTuple):
    """One key of a recipe."""

    key: str
    value: Any
    source: str  # "--set", "the file", "default", "default of dino", or "derived" from other keys
    meaning: str


def explain(source: str | Path, changes: dict[str, Any] | None = None) -> list[Setting]:
    """The settings of a recipe in a file or of a shipped name, with `changes` to single keys. Raises `InputError`."""
    changes = changes or {}
    recipe, written = read_recipe(source, changes), read_values(find_recipe(source))
    meanings = key_meanings(recipe.method)
    defaults = {field.name: field.default for field in dataclasses.fields(Recipe)}
    settings = []
    for key, value in recipe.flat().items():
        first, _, field = key.rpartition(".")
        if key in changes:
            origin = "--set"
        elif key in written and not (key == "name" and value != written[key]):
            origin = "the file"
        elif key not in defaults and first != "reference":
            origin = f"default of {recipe.method}"
        else:
            default = defaults.get(key)
            origin = "default" if value == (list(default) if isinstance(default, tuple) else default) else "derived"
        settings.append(Setting(key, value, origin, meanings.get(key, meanings.get(first and f"*.{field}", ""))))
    return settings


def key_meanings(method: str) -> dict[str, str]:
    """What each key of a method's recipes means, from the docstrings; "*.size" stands for that field of any view. Raises `InputError`."""
    config = method_class(method).config_class
    meanings = {f"*.{name}": text for name, text in _documented(View).items()}
    for base in reversed(config.__mro__[: config.__mro__.index(MethodConfig) + 1]):
        meanings |= _documented(base)
    meanings |= _documented(Recipe)
    return meanings | {f"reference.{metric}": meanings["reference"] for metric in METRICS}


def _documented(documented: type) -> dict[str, str]:
    """Entries such as "lr, final_lr: text" in a docstring: each begins a line, or follows a full stop or semicolon."""
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n|\n {4}(?=[a-z]\w*(?:, [a-z]\w*)*: )", documented.__doc__ or "")]
    entry = re.compile(r"(?:^|(?<=[.;] ))([a-z]\w*(?:, [a-z]\w*)*): ")
    found = {}
    for paragraph in paragraphs:
        starts = list(entry.finditer(paragraph))
        ends = [start.start() for start in starts[1:]] + [len(paragraph)]
        for start, end in zip(starts, ends, strict=False):
            found |= dict.fromkeys(start[1].split(", "), paragraph[start.end() : end].strip())
    return found
