"""Errors for the user: one line that names what is wrong and the nearest valid choice."""

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """Unusable input; the message is one line that names it and says what to do. The command line exits with 2.

    Unprintable characters, such as a line break in a file's name, are escaped.
    """

    def __init__(self, message: str):
        super().__init__("".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in str(message)))


def unknown(kind: str, name: object, choices: Iterable[str]) -> InputError:
    """The error for a `name` that is not among `choices`: suggests the nearest one, or lists them all when none is near."""
    choices, name = sorted(choices), str(name)
    near = get_close_matches(name, choices, n=1, cutoff=0.4)
    name = name if len(name) <= 200 else f"{name[:200]}..."
    hint = f"did you mean '{near[0]}'?" if near else f"choose from: {', '.join(choices) or '(none)'}"
    return InputError(f"unknown {kind} '{name}': {hint}")


def printable(name: object) -> str:
    """An untrusted name for a one-line message: escaped where it is not printable, shortened where it is long."""
    name = str(name) if str(name).isprintable() else ascii(str(name))[1:-1]
    return name if len(name) <= 120 else f"{name[:100]}..."


def first_line(error: Exception) -> str:
    """The first line of another library's error."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class TrainingError(RuntimeError):
    """Training cannot continue; the message is one line that says why and what was saved. The command line exits with 1."""


class PublishError(RuntimeError):
    """The Hub rejected a run; the message is one line that says why and what to do. The command line exits with 1."""


class StoppedError(RuntimeError):
    """A signal or the time limit stopped a command; the message is one line that says what was saved."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code
