"""From the keys and values of a file to a checked `Recipe` and back, and what happens to its name when keys are changed."""

import dataclasses
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from sslzoo.data import source_name
from sslzoo.errors import InputError, first_line, unknown
from sslzoo.files import atomic_write_text
from sslzoo.method import Method
from sslzoo.methods import method_class, method_names
from sslzoo.views import View

from .limits import METRICS, NESTED, PATHS
from .names import changed_name, with_digits
from .schema import Recipe
from .starting_point import with_encoder
from .teacher import with_teacher
from .values import shown, typed
from .view_sizes import COLOURS
from .yaml_files import StrictLoader, find_recipe, read_values, shipped_run_names

_log = logging.getLogger(__name__)
# Keys that say how a run is computed and logged; all others decide what is learned, or what it is measured on.
_NOT_IDENTITY = {
    "name", "broken_share", "precision", "compile", "seed", "protocols", "knn_every", "log_every", "checkpoint_every", "tracker",
    "reference_k", "gradient_checkpointing", "attn_implementation",
}  # fmt: skip
_SIZES = re.compile(r"eval_crop|eval_resize|canvas|view\.\w+\.size")
_COLOURS = re.compile(rf"view\.\w+\.({'|'.join(COLOURS)})")
_MISSING = object()


def load_recipe(file: Path) -> Recipe:
    """The recipe in the file of a run folder, unchanged. Raises `InputError`."""
    return parse_recipe(read_values(file), str(file))


def read_recipe(source: str | Path, changes: dict[str, Any] | None = None, earlier: dict[str, Any] | None = None) -> Recipe:
    """The recipe in a file or of a shipped name such as "cifar10/simclr", with `changes` to single keys. Raises `InputError`.

    The name and the reference page's numbers belong to one run. A change to what is learned or measured on makes it another run, whose
    recipe gets a name of its own and loses the numbers, unless they are among the changes; a warning says so. Keys of how a run is
    computed or logged (`_NOT_IDENTITY`: precision, compile, seed, protocols and so on) do not count. An edited copy of a shipped recipe
    that still has its name is treated like a change. Sizes in px keep their ratio to a changed image_size. Changes of colours in the file
    are left out where `changes` asks for other than three channels.
    An encoder from elsewhere is looked up (see `starting_point.resolve_encoder`, also for `earlier`), and so is a teacher.
    """
    file = find_recipe(source)
    file_values, changes = with_teacher(*with_encoder(read_values(file), changes or {}, earlier), earlier)
    if changes.get("channels", file_values.get("channels", 3)) != file_values.get("channels", 3):
        # What belongs to the channels that are replaced.
        file_values = {key: value for key, value in file_values.items() if key not in ("mean", "std") and not _COLOURS.fullmatch(str(key))}
    values = {**file_values, **changes}
    recipe = parse_recipe({**_sizes_as_shares(file_values, changes), **changes}, str(file))
    names = shipped_run_names()
    # The recipe that the name belongs to: the shipped one, even if this file has copied its name.
    named = file_values if "name" in changes or names.get(recipe.name, file) == file else read_values(names[recipe.name])
    differing = _identity_differences(named, values)
    if not differing:
        return recipe
    try:
        before = parse_recipe(named, str(file)).flat()
    except InputError:  # a key that it lacks is among the changes
        before = {}
    after = recipe.flat()
    changed = [key for key in sorted(differing) if before.get(key, _MISSING) != after[key]]
    if not changed:
        return recipe
    name = values.get("name")
    if "name" in named and "name" not in changes:
        name = changed_name(before or after, after, changed)
        name = with_digits(name, [after[key] for key in changed]) if name in names else name
    reference = {metric: value for metric, value in recipe.reference.items() if f"reference.{metric}" in changes}
    if (name or recipe.name, reference) != (recipe.name, recipe.reference):
        left_out = "; the page's numbers belong to another run and are left out" if reference != recipe.reference else ""
        keys = ", ".join(changed[:5]) + (f" and {len(changed) - 5} more" if len(changed) > 5 else "")
        _log.warning("name %s%s: %s changed", name or recipe.name, left_out, keys)
    return dataclasses.replace(recipe, name=name, reference=reference)


def parse_recipe(values: dict[str, Any], where: str) -> Recipe:
    """A recipe from flat keys and values. where: their source, for errors. Raises `InputError`."""
    own = {field.name: field for field in dataclasses.fields(Recipe) if field.name not in NESTED}
    if values.get("method") is None:
        raise InputError(f"{where}: the key 'method' is missing (one of: {', '.join(method_names())})")
    try:
        method = method_class(typed("method", values["method"], str))
        hyperparameters, view_fields = _field_types(method.config_class), {**_field_types(View), "size": int | float}
        known = {*own, *method.config_class.hyperparameters(), *_dotted_keys(method)}
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
    """Writes every key, so that the file describes the run even if defaults change later."""
    atomic_write_text(file, _text(recipe.flat()))


def published_text(file: Path) -> str:
    """The text of a run folder's recipe.yaml as it is published: of local paths only the last part.

    From the keys that the file has, so that it stays the same when later versions have more. Raises `InputError`.
    """
    values = read_values(file)
    return _text({key: source_name(value) if key in PATHS and isinstance(value, str) else value for key, value in values.items()})


def is_as_written(file: Path) -> bool:
    """Whether recipe.yaml has the form in which it is written or published, not only its content. Raises `InputError`."""
    return file.read_text(encoding="utf-8") in (_text(read_values(file)), published_text(file))


def _text(values: dict[str, Any]) -> str:
    return yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=140)


def parse_changes(changes: list[str]) -> dict[str, Any]:
    """Keys and values of `["epochs=10", "view.local.count=8"]`. Raises `InputError`."""
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


def _identity_differences(first: dict[str, Any], second: dict[str, Any]) -> set[str]:
    """The keys that differ between two recipes, without those that do not make another run."""
    keys = {key for key in (*first, *second) if first.get(key, _MISSING) != second.get(key, _MISSING)}
    return {key for key in keys - _NOT_IDENTITY if not key.startswith("reference.")}


def _sizes_as_shares(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The file's values; if the image size changes, with sizes in px converted to shares of the old image size."""
    before, after = values.get("image_size"), changes.get("image_size")
    if type(before) is not int or type(after) is not int or before < 1 or before == after:
        return values
    sizes = {key: value for key, value in values.items() if _SIZES.fullmatch(str(key)) and type(value) is int}
    return {**values, **{key: round(value * after / before) if key == "canvas" else value / before for key, value in sizes.items()}}


def _field_types(data_class: type) -> dict[str, Any]:
    return {field.name: field.type for field in dataclasses.fields(data_class)}


def _dotted_keys(method: type[Method]) -> Iterator[str]:
    yield from (f"reference.{metric}" for metric in METRICS)
    for name in method.views(32):
        yield from (f"view.{name}.{field.name}" for field in dataclasses.fields(View))
