"""A recipe: the whole run in one flat file, read, checked and written."""

import dataclasses
import math
import os
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from sslzoo.data import source_name
from sslzoo.encoders import ENCODERS
from sslzoo.errors import InputError, first_line, unknown
from sslzoo.evaluation import protocol_named
from sslzoo.method import Method, MethodConfig
from sslzoo.methods import method_class, method_names
from sslzoo.optim import LR_SCALINGS, OPTIMIZERS, SCHEDULES
from sslzoo.views import View

PRECISIONS = ("fp32", "bf16", "fp16")
TRACKERS = ("tensorboard", "trackio")
METRICS = ("knn_top1", "knn_top5", "linear_top1", "linear_top5", "finetune_top1", "finetune_top5")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One run. Fields without a default must be in the file.

    name: of the run folder, the card and the Hub repository; None: method-encoder-dataset.
    dataset: a Hub id, a folder, a Parquet file, or "digits"; train_split, test_split (None: no evaluation), image_column, label_column
        ("none": no labels) and canvas as in `sslzoo.data.load_images`.
    image_size: px, of the views and of what the encoder is made for.
    eval_resize, eval_crop: px, short side and centre crop in evaluation; None: image_size.
    batch_size: images per optimiser step, over all devices and micro-batches; accumulate: micro-batches per step.
    lr, lr_scaling, schedule, warmup_epochs, final_lr: see `sslzoo.optim`; final_lr is a multiple of the peak.
    momentum: of SGD and LARS. betas: of AdamW. decay_norm_and_bias: weight decay for norms and biases too.
    clip_norm: largest norm of all gradients together, None: any.
    precision: "fp32", or the type of autocast. compile: torch.compile for views and encoder.
    protocols: of `sslzoo.evaluation.PROTOCOLS`, what `sslzoo evaluate` measures by where nothing else is asked for.
    knn_every: epochs between kNN evaluations while training (0: after the last epoch alone).
    log_every, checkpoint_every: optimiser steps. tracker: "tensorboard" or "trackio" in addition to metrics.jsonl.
    hyperparameters: the method's own, by the names in its configuration.
    views: fields of views that differ from the method's, {"local": {"count": 8}}; in the file `view.local.count: 8`.
    reference_k: neighbours of the reference's kNN numbers, whose temperature is 0.1.
    reference: numbers of the page that the recipe repeats, as fractions; in the file `reference.knn_top1: 0.848`.
    """

    method: str
    encoder: str
    dataset: str
    image_size: int
    batch_size: int
    epochs: int
    optimizer: str
    lr: float
    lr_scaling: str
    schedule: str
    weight_decay: float
    name: str | None = None
    train_split: str = "train"
    test_split: str | None = "test"
    image_column: str | None = None
    label_column: str | None = None
    canvas: int | None = None
    eval_resize: int | None = None
    eval_crop: int | None = None
    accumulate: int = 1
    warmup_epochs: float = 0.0
    final_lr: float = 0.0
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    decay_norm_and_bias: bool = True
    clip_norm: float | None = None
    precision: str = "fp32"
    compile: bool = False
    seed: int = 0
    protocols: tuple[str, ...] = ("knn-instdisc-v1",)
    knn_every: int = 1
    log_every: int = 50
    checkpoint_every: int = 1000
    tracker: str | None = None
    reference_k: int = 200
    hyperparameters: dict[str, Any] = dataclasses.field(default_factory=dict)
    views: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    reference: dict[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        for key, choices in _CHOICES.items():
            value = getattr(self, key)
            if value not in choices and not (value is None and key == "tracker"):
                raise unknown(key, value, choices)
        for key in ("image_size", "batch_size", "epochs", "accumulate", "log_every", "checkpoint_every", "reference_k"):
            _at_least(key, getattr(self, key), 1)
        for key in ("lr", "weight_decay", "warmup_epochs", "final_lr", "momentum", "knn_every", "seed"):
            _at_least(key, getattr(self, key), 0)
        for key in ("eval_resize", "eval_crop", "canvas", "clip_norm"):
            if getattr(self, key) is not None:
                _at_least(key, getattr(self, key), 0 if key == "clip_norm" else 1)
        if self.batch_size % self.accumulate:
            raise InputError(f"batch_size {self.batch_size} cannot be divided into accumulate: {self.accumulate} micro-batches")
        for key, values in (("momentum", (self.momentum,)), ("betas", self.betas)):
            if not all(0 <= value < 1 for value in values):
                raise InputError(f"{key} is {getattr(self, key)}: must be 0 or more and less than 1")
        if self.name is not None and not _HUB_NAME.fullmatch(self.name):
            allowed = "letters, digits, '_', and single '-' and '.' between them, 96 at most"
            raise InputError(f"name '{self.name}' is not a name for a Hub repository: {allowed}")
        object.__setattr__(self, "name", self.name or self._derived_name())
        object.__setattr__(self, "eval_crop", self.eval_crop or self.image_size)
        object.__setattr__(self, "eval_resize", self.eval_resize or self.eval_crop)
        for protocol in self.protocols:
            protocol_named(protocol)
        self.method_config()
        self.make_views()

    def _derived_name(self) -> str:
        dataset = re.sub(r"[^a-z0-9_]+", "-", Path(self.dataset.partition("@")[0]).stem.lower()).strip("-_")
        return f"{self.method}-{self.encoder}-{dataset or 'images'}"[:96].rstrip("-")

    def method_config(self) -> MethodConfig:
        """The method's configuration. Raises `InputError`."""
        try:
            return method_class(self.method).config_class(encoder=self.encoder, image_size=self.image_size, **self.hyperparameters)
        except InputError:
            raise
        except Exception as error:  # the strict data classes raise kinds of their own
            raise InputError(f"recipe '{self.name}': {' '.join(str(error.__cause__ or error).split())}") from error

    def make_method(self) -> Method:
        """A fresh method; its weights come from torch's global random numbers."""
        return method_class(self.method)(self.method_config())

    def make_views(self) -> dict[str, View]:
        """The method's views with the recipe's values. Raises `InputError`."""
        views = method_class(self.method).views(self.image_size)
        fields = [field.name for field in dataclasses.fields(View)]
        for name, values in self.views.items():
            if name not in views:
                raise unknown(f"view of {self.method}", name, views)
            for field in values:
                if field not in fields:
                    raise unknown(f"field of view.{name}", field, fields)
            try:
                views[name] = dataclasses.replace(views[name], **values)
            except InputError as error:
                raise InputError(f"view.{name}: {error}") from error
        return views

    def public(self) -> "Recipe":
        """The recipe as it is published: of a local data set the last part of its place alone."""
        return dataclasses.replace(self, dataset=source_name(self.dataset))

    def flat(self) -> dict[str, Any]:
        """Every key and value as `recipe.yaml` holds them, the method's and the views' defaults spelt out."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name not in _NESTED}
        config = self.method_config()
        values |= {key: getattr(config, key) for key in config.hyperparameters()}
        for name, view in self.make_views().items():
            values |= {f"view.{name}.{field}": value for field, value in dataclasses.asdict(view).items()}
        values |= {f"reference.{metric}": value for metric, value in self.reference.items()}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


_HUB_NAME = re.compile(r"(?!.*(--|\.\.|\.git$))[A-Za-z0-9]([A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")  # what the Hub takes
_NESTED = ("hyperparameters", "views", "reference")
_CHOICES = {
    "method": method_names(), "encoder": ENCODERS, "optimizer": OPTIMIZERS, "lr_scaling": LR_SCALINGS, "schedule": SCHEDULES,
    "precision": PRECISIONS, "tracker": TRACKERS,
}  # fmt: skip


def recipes_folder() -> Path:
    """Where the recipes that come with sslzoo are: inside the installed package, else beside it in the checkout."""
    inside = Path(__file__).parent / "recipes"
    return inside if inside.is_dir() else Path(__file__).parents[1] / "recipes"


def shipped_recipes() -> dict[str, Path]:
    """Name ("cifar10/simclr") and file of every recipe that comes with sslzoo."""
    folder = recipes_folder()
    files = (file for file in sorted(folder.glob("*/*.yaml")) if file.parent.name != "accelerate")
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}


def read_recipe(source: str | Path, changes: dict[str, Any] | None = None) -> Recipe:
    """The recipe in a file, or of a shipped name such as "cifar10/simclr", with `changes` to single keys. Raises `InputError`."""
    file = Path(source)
    if not os.path.isfile(file):  # unlike Path.is_file, False for names that no file can have
        name = file.as_posix().removesuffix(".yaml").removeprefix("recipes/")
        shipped = shipped_recipes()
        if name not in shipped:
            raise unknown("recipe", source, shipped)
        file = shipped[name]
    try:
        values = yaml.load(file.read_text(), Loader=_Loader)
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:  # ValueError: no UTF-8, or a date such as 2024-13-45
        raise InputError(f"cannot read {file}: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(values, dict):
        raise InputError(f"{file} is no recipe: it must hold lines of `key: value`")
    return parse_recipe({**values, **(changes or {})}, str(file))


def parse_recipe(values: dict[str, Any], where: str) -> Recipe:
    """A recipe from its flat keys and values; `where` names them in errors. Raises `InputError`."""
    own = {field.name: field for field in dataclasses.fields(Recipe) if field.name not in _NESTED}
    name = values.get("method")
    if name is None:
        raise InputError(f"{where}: the key 'method' is missing (one of: {', '.join(method_names())})")
    try:
        method = method_class(str(name))
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    hyperparameters, view_fields = _types(method.config_class), _types(View)
    known = {*own, *method.config_class.hyperparameters(), *_dotted(method)}
    arguments: dict[str, Any] = {"hyperparameters": {}, "views": {}, "reference": {}}
    try:
        for key, value in values.items():
            if key not in known:
                raise unknown("key", key, known)
            first, _, rest = key.partition(".")
            if first == "view":
                view, _, field = rest.partition(".")
                arguments["views"].setdefault(view, {})[field] = _as_type(key, value, view_fields[field])
            elif first == "reference":
                arguments["reference"][rest] = _as_type(key, value, float)
            elif key in own:
                arguments[key] = _as_type(key, value, own[key].type)
            else:
                arguments["hyperparameters"][key] = _as_type(key, value, hyperparameters[key])
        for key, field in own.items():
            if key not in arguments and field.default is dataclasses.MISSING:
                raise InputError(f"the key '{key}' is missing")
        return Recipe(**arguments)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def write_recipe(recipe: Recipe, file: Path) -> None:
    """Writes every key, so that the file is the whole run whatever defaults may change."""
    file.write_text(recipe_text(recipe))


def recipe_text(recipe: Recipe) -> str:
    """The recipe as a file holds it, every key spelt out: the same recipe always gives the same text."""
    return yaml.safe_dump(recipe.flat(), sort_keys=False, default_flow_style=None, width=140)


def parse_changes(changes: list[str]) -> dict[str, Any]:
    """`["epochs=10", "view.local.count=8"]` as keys and values. Raises `InputError`."""
    parsed = {}
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise InputError(f"--set takes key=value, not '{change}'")
        try:
            parsed[key.strip()] = yaml.load(value, Loader=_Loader)
        except (ValueError, yaml.YAMLError, RecursionError) as error:
            raise InputError(f"--set {key}: cannot read the value {value[:80]!r}: {first_line(error)}") from error
    return parsed


class _Loader(yaml.SafeLoader):
    """YAML that refuses to forget: a key that stands twice is an error. So is an alias, of which few lines make a text without end."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "an alias (*name): spell the value out", self.peek_event().start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key '{key}' stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _types(data_class: type) -> dict[str, Any]:
    return {field.name: field.type for field in dataclasses.fields(data_class)}


def _dotted(method: type[Method]) -> Iterator[str]:
    yield from (f"reference.{metric}" for metric in METRICS)
    for name in method.views(32):
        yield from (f"view.{name}.{field.name}" for field in dataclasses.fields(View))


def _as_type(key: str, value: Any, wanted: Any) -> Any:
    """`value` as the type `wanted`; whole numbers and texts such as 1e-6, which YAML takes for words, pass as fractions."""
    options = typing.get_args(wanted) if typing.get_origin(wanted) in (types.UnionType, typing.Union) else (wanted,)
    if value is None and types.NoneType in options:
        return None
    for option in options:
        if option is types.NoneType:
            continue
        origin, inner = typing.get_origin(option), typing.get_args(option)
        if origin is tuple or origin is list:
            if isinstance(value, (list, tuple)) and (inner[-1] is Ellipsis or origin is list or len(value) == len(inner)):
                return tuple(_as_type(key, item, inner[0]) for item in value)
        elif option is float and not isinstance(value, bool):
            try:
                number = float(value)
            except (TypeError, ValueError, OverflowError):
                continue
            if math.isfinite(number):
                return number
        elif option is bool and isinstance(value, bool) or option is int and isinstance(value, int) and not isinstance(value, bool):
            return value
        elif option is str and isinstance(value, (str, os.PathLike)):
            return str(value)
    raise InputError(f"{key} is {value!r}: must be {_spelt(options)}")


def _spelt(options: tuple) -> str:
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", types.NoneType: "null"}
    spelt = []
    for option in options:
        if option in names:
            spelt.append(names[option])
        elif typing.get_origin(option) in (tuple, list):
            spelt.append(f"a list of {len(typing.get_args(option))} numbers")
    return " or ".join(dict.fromkeys(spelt))


def _at_least(key: str, value: float, least: int) -> None:
    if value < least:
        raise InputError(f"{key} is {value}: must be {least} or more")
