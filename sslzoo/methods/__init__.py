"""The methods: one file each, and this folder is their registry."""

import importlib
import inspect
import pkgutil

from sslzoo.errors import unknown
from sslzoo.method import Method


def method_names() -> list[str]:
    """The names of all methods, those of their files."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def method_class(name: str) -> type[Method]:
    """The class that file `name` defines. Raises `InputError`."""
    if name not in method_names():
        raise unknown("method", name, method_names())
    module = importlib.import_module(f"{__name__}.{name}")
    return next(
        member for member in vars(module).values()
        if inspect.isclass(member) and issubclass(member, Method) and member.__module__ == module.__name__
    )  # fmt: skip


def method_name(method: type[Method]) -> str:
    """The name of the file that defines the class."""
    return method.__module__.rpartition(".")[2]
