"""From the keys and values of a file to a checked `Recipe` and back, and what happens to its name when keys are changed."""

import dataclasses
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from sslzoo.errors import InputError, first_line, unknown
from sslzoo.files import atomic_write_text
from sslzoo.method import Method
from sslzoo.methods import method_class, method_names
from sslzoo.views import View

from .names import changed_name, with_digits
from .schema import METRICS, NESTED, Recipe
from .values import shown, typed
from .yaml_files import StrictLoader, find_recipe, read_values, shipped_run_names

_log = logging.getLogger(__name__)
# Keys that say how a run is computed and logged; all others decide what is learned, or what it is measured on.
_NOT_IDENTITY = {
    "name", "broken_share", "precision", "compile", "seed", "protocols", "knn_every", "log_every", "checkpoint_every", "tracker",
    "reference_k",
}  # fmt: skip
_SIZES = re.compile(r"eval_crop|eval_resize|canvas|view\.\w+\.size")
_MISSING = object()


def load_recipe(file: Path) -> Recipe:
    """The recipe of a run folder's file, as it stands there. Raises `InputError`."""
    return parse_recipe(read_values(file), str(file))


def read_recipe(source: str | Path, changes: dict[str, Any] | None = None) -> Recipe:
    """The recipe to run: of a file, or of a shipped name such as "cifar10/simclr", with `changes` to single keys. Raises `InputError`.

    A name and the reference page's numbers belong to one run. Where a change makes it another (any but one to how it is computed or
    watched: precision, compile, seed, protocols, knn_every, log_every, checkpoint_every, tracker), the recipe gets a name that tells it
    from the file's and does without the numbers, unless they are among the changes; a warning says so. The same goes for a file of
    another run that bears a shipped recipe's name. Sizes in px, which a file may spell out, keep their ratio to a changed image_size.
    """
    file = find_recipe(source)
    own, changes = read_values(file), changes or {}
    values = {**own, **changes}
    recipe = parse_recipe({**_in_shares(own, changes), **changes}, str(file))
    names = shipped_run_names()
    claimed = own if "name" in changes or names.get(recipe.name, file) == file else read_values(names[recipe.name])
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
    atomic_write_text(file, recipe_text(recipe))


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
            parsed[key.strip()] = yaml.load(value, Loader=StrictLoader)
        except (ValueError, yaml.YAMLError, RecursionError) as error:
            raise InputError(f"--set {key}: cannot read the value {shown(value)}: {first_line(error)}") from error
    return parsed


def _differing(first: dict[str, Any], second: dict[str, Any]) -> set[str]:
    """The keys of either that say what is learned, and that are not the same in both."""
    keys = {key for key in (*first, *second) if first.get(key, _MISSING) != second.get(key, _MISSING)}
    return {key for key in keys - _NOT_IDENTITY if not key.startswith("reference.")}


def _in_shares(own: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The file's values, its sizes in px as shares of its image size where that changes."""
    before, after = own.get("image_size"), changes.get("image_size")
    if type(before) is not int or type(after) is not int or before < 1 or before == after:
        return own
    sizes = {key: value for key, value in own.items() if _SIZES.fullmatch(str(key)) and type(value) is int}
    return {**own, **{key: round(value * after / before) if key == "canvas" else value / before for key, value in sizes.items()}}


def _types(data_class: type) -> dict[str, Any]:
    return {field.name: field.type for field in dataclasses.fields(data_class)}


def _dotted(method: type[Method]) -> Iterator[str]:
    yield from (f"reference.{metric}" for metric in METRICS)
    for name in method.views(32):
        yield from (f"view.{name}.{field.name}" for field in dataclasses.fields(View))
