"""Bad input: one line that names what is wrong and the nearest valid choice."""

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """What the user gave cannot be used; the message is one line that names it and what to do. The command line exits with 2.

    What a terminal does not print, such as a line break in a file's name, is written as Python writes it.
    """

    def __init__(self, message: str):
        super().__init__("".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in str(message)))


def unknown(kind: str, name: object, choices: Iterable[str]) -> InputError:
    """The error for a `name` that is none of `choices`: says the nearest one, or all of them when none is near."""
    choices, name = sorted(choices), str(name)
    near = get_close_matches(name, choices, n=1, cutoff=0.4)
    name = name if len(name) <= 200 else f"{name[:200]}..."
    hint = f"did you mean '{near[0]}'?" if near else f"choose from: {', '.join(choices) or '(none)'}"
    return InputError(f"unknown {kind} '{name}': {hint}")


def printable(name: object) -> str:
    """A stranger's name in a message of one line: escaped where it would break it, cut where it is long."""
    name = str(name) if str(name).isprintable() else ascii(str(name))[1:-1]
    return name if len(name) <= 120 else f"{name[:100]}..."


def first_line(error: Exception) -> str:
    """The beginning of another library's error, for a message of one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class TrainingError(RuntimeError):
    """Training cannot go on; the message is one line that says why and what is left. The command line exits with 1."""


class PublishError(RuntimeError):
    """The Hub did not take a run; the message is one line that says why and what to do. The command line exits with 1."""


class StoppedError(RuntimeError):
    """A signal ended the training; the message is one line that says what is saved. The command line exits with 128 + signal."""

    def __init__(self, message: str, signal: int):
        super().__init__(message)
        self.signal = signal
