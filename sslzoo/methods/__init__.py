"""The methods: one file each in this folder, and those that installed packages register as entry points `sslzoo.methods`."""

import importlib
import inspect
import pkgutil
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from sslzoo.encoders import model_folder
from sslzoo.errors import InputError, first_line, unknown
from sslzoo.method import Method
from sslzoo.method_files import read_block

ENTRY_POINTS = "sslzoo.methods"


def load(name: str | Path, *, revision: str | None = None, token: str | bool | None = None) -> Method:
    """The whole method in a run folder or Hub repository, of whatever class it is; see `Method.from_pretrained`."""
    folder = model_folder(name, revision=revision, token=token)
    return method_class(read_block(folder)["model_type"].removeprefix("sslzoo-")).from_pretrained(folder)


def method_names() -> list[str]:
    """The names of all methods: of the files here, and of installed entry points."""
    return sorted({*shipped_names(), *_registered()})


def method_class(name: str) -> type[Method]:
    """The class that file `name` defines or entry point `name` leads to. Raises `InputError`."""
    if name in shipped_names():
        module = importlib.import_module(f"{__name__}.{name}")
        return next(
            member for member in vars(module).values()
            if inspect.isclass(member) and issubclass(member, Method) and member.__module__ == module.__name__
        )  # fmt: skip
    registered = _registered()
    if name not in registered:
        raise unknown("method", name, method_names())
    return _loaded(registered[name])


def method_name(method: type[Method]) -> str:
    """The name by which `method_class` finds the class: its `model_type` is "sslzoo-<name>"."""
    return method.config_class.model_type.removeprefix("sslzoo-")


@cache
def shipped_names() -> tuple[str, ...]:
    """The names of the methods that come with sslzoo."""
    return tuple(module.name for module in pkgutil.iter_modules(__path__))


def _registered() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def _loaded(point: EntryPoint) -> type[Method]:
    where = f"the method '{point.name}' of {point.dist.name if point.dist else point.value}"
    try:
        found = point.load()
    except Exception as error:  # whatever another package raises at its import
        raise InputError(f"{where} cannot be imported: {first_line(error)}") from error
    if not (inspect.isclass(found) and issubclass(found, Method)):
        raise InputError(f"{where} is {point.value}, which is no subclass of sslzoo.Method")
    if found.config_class.model_type != f"sslzoo-{point.name}":
        raise InputError(f"{where} has the model_type '{found.config_class.model_type}': must be 'sslzoo-{point.name}'")
    return found
