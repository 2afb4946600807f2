"""Recipe files: the shipped ones, and the keys and values in a YAML file. Imports neither torch nor transformers, to start fast."""

import copy
import fnmatch
import os
import re
from collections.abc import Hashable
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import yaml

from sslzoo.errors import InputError, unknown

_MAX_BYTES = 2**16


def recipes_folder() -> Path:
    """The folder of the shipped recipes: inside the installed package, or next to it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "recipes"
    return inside if inside.is_dir() else package.parent / "recipes"


def shipped_recipes() -> dict[str, Path]:
    """Name ("cifar10/simclr") and file of every recipe that comes with sslzoo."""
    folder = recipes_folder()
    files = (file for file in sorted(folder.glob("*/*.yaml")) if file.parent.name != "accelerate")
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}


@cache
def shipped_run_names() -> dict[str, Path]:
    """The `name:` of each shipped recipe that has one ("simclr-res18-cifar10"), and its file."""
    found = {file: re.search(r"^name: *(\S+)", file.read_text(encoding="utf-8"), re.MULTILINE) for file in shipped_recipes().values()}
    return {name[1]: file for file, name in found.items() if name}


def find_recipe(source: str | Path) -> Path:
    """The file of a recipe that is given by its path or by a shipped name. Raises `InputError`."""
    if os.path.isfile(source):  # unlike Path.is_file, False for names that no file can have
        return Path(source)
    if source and os.path.isdir(source):
        raise InputError(f"unknown recipe '{source}': it is a folder, name a file in it, such as {Path(source) / 'recipe.yaml'}")
    name, shipped = Path(source).as_posix().removesuffix(".yaml").removeprefix("recipes/"), shipped_recipes()
    if name not in shipped:
        raise unknown("recipe", source, shipped)
    return shipped[name]


def matching_recipes(source: str) -> list[str]:
    """The shipped names that a pattern such as "cifar10/*" fits, in alphabetical order; any other text as it is. Raises `InputError`."""
    if not set(source) & set("*?["):
        return [source]
    names = fnmatch.filter(shipped_recipes(), source)
    if not names:
        raise InputError(f"no recipe fits '{source}': `sslzoo list` shows them")
    return names


def read_values(file: Path) -> dict[str, Any]:
    """The keys and values in a recipe file, unchecked. Raises `InputError` for a file that is no YAML mapping."""
    try:
        with open(file, "rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise InputError(f"{file} is no recipe: it has more than {_MAX_BYTES} bytes")
        values = copy.deepcopy(_parse(content))
    except InputError:
        raise
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:  # ValueError: no UTF-8, or a date such as 2024-13-45
        raise InputError(f"cannot read {file}: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(values, dict):
        raise InputError(f"{file} is no recipe: it must hold lines of `key: value`")
    return values


@lru_cache(maxsize=256)
def _parse(content: bytes) -> Any:
    # A run folder's recipe is read again for each of its values.
    return yaml.load(content.decode("utf-8-sig"), Loader=StrictLoader)


class StrictLoader(yaml.SafeLoader):
    """Safe YAML in which duplicate keys are errors, and aliases too: a few lines of nested aliases expand to gigabytes."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "an alias (*name): spell the value out", self.peek_event().start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        keys = set()
        for key in (self.construct_object(key, deep=True) for key, _ in node.value):
            if isinstance(key, Hashable) and key in keys:
                raise yaml.constructor.ConstructorError(None, None, f"the key '{key}' appears twice", node.start_mark)
            if isinstance(key, Hashable):
                keys.add(key)
        return super().construct_mapping(node, deep)
