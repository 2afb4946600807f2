"""Recipes from files and to files: YAML, the recipes that come with sslzoo, and changes to single keys."""

import dataclasses
import logging
import os
import re
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import yaml

from sslzoo.errors import InputError, first_line, unknown
from sslzoo.files import write_whole
from sslzoo.method import Method
from sslzoo.methods import method_class, method_names
from sslzoo.views import View

from .names import changed_name, with_digits
from .schema import METRICS, NESTED, Recipe
from .values import shown, typed

_log = logging.getLogger(__name__)
_LARGEST_FILE = 2**16  # bytes
# What says how a run is computed and watched; every other key says what is learned, or what that is measured on.
_HOW = {
    "name", "broken_share", "precision", "compile", "seed", "protocols", "knn_every", "log_every", "checkpoint_every", "tracker",
    "reference_k",
}  # fmt: skip
_PIXELS = re.compile(r"eval_crop|eval_resize|canvas|view\.\w+\.size")


def recipes_folder() -> Path:
    """Where the recipes that come with sslzoo are: inside the installed package, else beside it in the checkout."""
    package = Path(__file__).parents[1]
    inside = package / "recipes"
    return inside if inside.is_dir() else package.parent / "recipes"


def shipped_recipes() -> dict[str, Path]:
    """Name ("cifar10/simclr") and file of every recipe that comes with sslzoo."""
    folder = recipes_folder()
    files = (file for file in sorted(folder.glob("*/*.yaml")) if file.parent.name != "accelerate")
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}


def load_recipe(file: Path) -> Recipe:
    """The recipe of a run folder's file, as it stands there. Raises `InputError`."""
    return parse_recipe(_values_of(file), str(file))


def read_recipe(source: str | Path, changes: dict[str, Any] | None = None) -> Recipe:
    """The recipe to run: of a file, or of a shipped name such as "cifar10/simclr", with `changes` to single keys. Raises `InputError`.

    A name and the reference page's numbers belong to one run. Where a change makes it another (any but one to how it is computed or
    watched: precision, compile, seed, protocols, knn_every, log_every, checkpoint_every, tracker), the recipe gets a name that tells it
    from the file's and does without the numbers, unless they are among the changes; a warning says so. The same goes for a file of
    another run that bears a shipped recipe's name. Sizes in px, which a file may spell out, keep their ratio to a changed image_size.
    """
    file = _file_of(source)
    own, changes = _values_of(file), changes or {}
    values = {**own, **changes}
    recipe = parse_recipe({**_in_shares(own, changes), **changes}, str(file))
    names = _shipped_names()
    claimed = own if "name" in changes or names.get(recipe.name, file) == file else _values_of(names[recipe.name])
    differing = _differing(claimed, values)
    if not differing:
        return recipe
    try:
        before = parse_recipe(claimed, str(file)).flat()
    except InputError:  # what it lacks is among the changes
        before = {}
    after = recipe.flat()
    changed = [key for key in sorted(differing) if before.get(key, _MISSING) != after[key]]
    if not changed:
        return recipe
    name = values.get("name")
    if "name" in claimed and "name" not in changes:
        name = changed_name(before or after, after, changed)
        name = with_digits(name, [after[key] for key in changed]) if name in names else name
    reference = {metric: value for metric, value in recipe.reference.items() if f"reference.{metric}" in changes}
    if (name or recipe.name, reference) != (recipe.name, recipe.reference):
        left_out = "; the page's numbers are of another run and left out" if reference != recipe.reference else ""
        told = ", ".join(changed[:5]) + (f" and {len(changed) - 5} more" if len(changed) > 5 else "")
        _log.warning("name %s%s: %s changed", name or recipe.name, left_out, told)
    return dataclasses.replace(recipe, name=name, reference=reference)


def parse_recipe(values: dict[str, Any], where: str) -> Recipe:
    """A recipe from its flat keys and values; `where` names them in errors. Raises `InputError`."""
    own = {field.name: field for field in dataclasses.fields(Recipe) if field.name not in NESTED}
    if values.get("method") is None:
        raise InputError(f"{where}: the key 'method' is missing (one of: {', '.join(method_names())})")
    try:
        method = method_class(typed("method", values["method"], str))
        hyperparameters, view_fields = _types(method.config_class), {**_types(View), "size": int | float}
        known = {*own, *method.config_class.hyperparameters(), *_dotted(method)}
        arguments: dict[str, Any] = {"hyperparameters": {}, "views": {}, "reference": {}}
        for key, value in values.items():
            if key not in known:
                raise unknown("key", key, known)
            first, _, rest = key.partition(".")
            if first == "view":
                view, _, field = rest.partition(".")
                arguments["views"].setdefault(view, {})[field] = typed(key, value, view_fields[field])
            elif first == "reference":
                arguments["reference"][rest] = typed(key, value, float)
            elif key in own:
                arguments[key] = typed(key, value, own[key].type)
            else:
                arguments["hyperparameters"][key] = typed(key, value, hyperparameters[key])
        for key, field in own.items():
            if key not in arguments and field.default is dataclasses.MISSING:
                raise InputError(f"the key '{key}' is missing")
        return Recipe(**arguments)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def write_recipe(recipe: Recipe, file: Path) -> None:
    """Writes every key, so that the file is the whole run whatever defaults may change."""
    write_whole(file, recipe_text(recipe))


def recipe_text(recipe: Recipe) -> str:
    """The recipe as a file holds it, every key spelt out: the same recipe always gives the same text."""
    return yaml.safe_dump(recipe.flat(), sort_keys=False, default_flow_style=None, width=140)


def parse_changes(changes: list[str]) -> dict[str, Any]:
    """`["epochs=10", "view.local.count=8"]` as keys and values. Raises `InputError`."""
    parsed = {}
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals or not key.strip():
            raise InputError(f"--set takes key=value, not {shown(change)}")
        try:
            parsed[key.strip()] = yaml.load(value, Loader=_Loader)
        except (ValueError, yaml.YAMLError, RecursionError) as error:
            raise InputError(f"--set {key}: cannot read the value {shown(value)}: {first_line(error)}") from error
    return parsed


class _Loader(yaml.SafeLoader):
    """YAML that refuses to forget: a key that stands twice is an error. So is an alias, of which few lines make a text without end."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "an alias (*name): spell the value out", self.peek_event().start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key in (self.construct_object(key, deep=True) for key, _ in node.value):
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key '{key}' stands twice", node.start_mark)
            if isinstance(key, Hashable):
                seen.add(key)
        return super().construct_mapping(node, deep)


_MISSING = object()


def _file_of(source: str | Path) -> Path:
    if os.path.isfile(source):  # unlike Path.is_file, False for names that no file can have
        return Path(source)
    if source and os.path.isdir(source):
        raise InputError(f"unknown recipe '{source}': it is a folder, name a file in it, such as {Path(source) / 'recipe.yaml'}")
    name, shipped = Path(source).as_posix().removesuffix(".yaml").removeprefix("recipes/"), shipped_recipes()
    if name not in shipped:
        raise unknown("recipe", source, shipped)
    return shipped[name]


def _values_of(file: Path) -> dict[str, Any]:
    """What the file says, key by key. Raises `InputError`."""
    try:
        with open(file, "rb") as opened:
            content = opened.read(_LARGEST_FILE + 1)
        if len(content) > _LARGEST_FILE:
            raise InputError(f"{file} is no recipe: it has more than {_LARGEST_FILE} bytes")
        values = yaml.load(content.decode("utf-8-sig"), Loader=_Loader)
    except InputError:
        raise
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:  # ValueError: no UTF-8, or a date such as 2024-13-45
        raise InputError(f"cannot read {file}: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(values, dict):
        raise InputError(f"{file} is no recipe: it must hold lines of `key: value`")
    return values


def _shipped_names() -> dict[str, Path]:
    """The names that shipped recipes give themselves, each with its file."""
    found = {file: re.search(r"^name: *(\S+)", file.read_text(encoding="utf-8"), re.MULTILINE) for file in shipped_recipes().values()}
    return {name[1]: file for file, name in found.items() if name}


def _differing(first: dict[str, Any], second: dict[str, Any]) -> set[str]:
    """The keys of either that say what is learned, and that are not the same in both."""
    keys = {key for key in (*first, *second) if first.get(key, _MISSING) != second.get(key, _MISSING)}
    return {key for key in keys - _HOW if not key.startswith("reference.")}


def _in_shares(own: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The file's values, its sizes in px as shares of its image size where that changes."""
    before, after = own.get("image_size"), changes.get("image_size")
    if type(before) is not int or type(after) is not int or before < 1 or before == after:
        return own
    sizes = {key: value for key, value in own.items() if _PIXELS.fullmatch(str(key)) and type(value) is int}
    return {**own, **{key: round(value * after / before) if key == "canvas" else value / before for key, value in sizes.items()}}


def _types(data_class: type) -> dict[str, Any]:
    return {field.name: field.type for field in dataclasses.fields(data_class)}


def _dotted(method: type[Method]) -> Iterator[str]:
    yield from (f"reference.{metric}" for metric in METRICS)
    for name in method.views(32):
        yield from (f"view.{name}.{field.name}" for field in dataclasses.fields(View))
