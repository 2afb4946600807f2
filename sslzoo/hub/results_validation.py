"""Validates what results.json and metrics.jsonl record of a run before a card repeats it.

Every function raises `InputError`, which names the file and the key.
"""

from typing import Any

from sslzoo.errors import InputError
from sslzoo.run import METRICS, RESULTS, WEIGHTS, Run

from .markdown import one_line
from .results_table import metric_label
from .validation import DIGEST, UntrustedMapping, is_number, preview

_COUNTS = ("train_images", "test_images", "test_images_in_train", "skipped", "classes", "seed")
_TEXTS = ("weights_sha256", "train_split", "train_fingerprint", "test_fingerprint", "code", "date")
_MAX_NUMBER = 10**15
_MAX_TEXTS = 10**7
_MAX_SEEDS = 100


def checked_training(run: Run) -> dict[str, Any]:
    """The facts of a finished training."""
    file, training = run.folder / RESULTS, run.results()["training"]
    if not training:
        raise InputError(f"{file}: the training has not finished: train (or --resume) first")
    values = UntrustedMapping(training, f"{file}: 'training'")
    for key, minimum in (("images", 1), ("processes", 1), ("peak_memory_bytes", 0)):
        values.integer(key, minimum, _MAX_NUMBER)
    for key in ("seconds", "images_per_second"):
        values.number(key, _MAX_NUMBER)
    _check_text_list(values, "skipped_images")
    values.texts("environment", 100)
    if values.has("resumed"):
        _check_text_list(values, "resumed")
    UntrustedMapping(values.mapping("environment", 100), f"{file}: the training's 'environment'").text("hardware", None)
    return training


def is_imported(run: Run) -> bool:
    """Whether the folder holds imported weights, which others trained."""
    return "imported" in run.results()


def checked_imported(run: Run) -> dict[str, Any]:
    """The source of imported weights, and what its authors report."""
    file, imported = run.folder / RESULTS, run.results()["imported"]
    values = UntrustedMapping(imported, f"{file}: 'imported'")
    for key in ("source", "sha256", "layout", "encoder"):
        values.text(key, None)
    if values.has("branch"):
        values.text("branch", None)
    if values.has("reported"):
        reported = UntrustedMapping(imported["reported"], f"{file}: 'reported'")
        reported.text("by", None)
        for metric in reported.mapping("numbers", 100):
            UntrustedMapping(imported["reported"]["numbers"], f"{file}: 'reported'").number(metric, 1)
    return imported


def checked_numbers(run: Run) -> list[dict[str, Any]]:
    """All numbers of the run, in the order of the file."""
    file, numbers = run.folder / RESULTS, run.results()["numbers"]
    for number in numbers:
        label, when, value = one_line(metric_label(number)), number["when"], number.get("value")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise InputError(f"{file}: {label} is {preview(value)}: must be a fraction from 0 to 1; evaluate again")
        if when not in ("last", "best"):
            raise InputError(f"{file}: {label} has 'when': {preview(when)}: must be 'last' or 'best'")
        _check_arguments(number["arguments"], f"{file}: {label}: 'arguments'")
        _check_provenance(number["provenance"], f"{file}: {label}: 'provenance'")
        _check_other_seeds(number, f"{file}: {label}")
    return numbers


def checked_metrics(run: Run) -> list[dict[str, Any]]:
    """The logged lines, each with its step."""
    file, lines = run.folder / METRICS, run.metrics()
    for line_number, line in enumerate(lines, 1):
        UntrustedMapping(line, f"{file}, line {line_number}").integer("step", 0, _MAX_NUMBER)
    if not any(is_number(line.get("loss")) for line in lines):
        raise InputError(f"{file} holds no loss: was the training finished?")
    return lines


def check_measured_on(run: Run, numbers: list[dict[str, Any]], weights_sha256: str) -> None:
    """Refuses numbers measured on other weights. A "best" one belongs to an epoch whose weights are not kept, and may name none."""
    for number in numbers:
        measured_on = number["provenance"].get("weights_sha256")
        if measured_on != weights_sha256 and not (number["when"] == "best" and measured_on is None):
            weights = f"weights {measured_on[:12]}..." if measured_on else "weights that it does not name"
            raise InputError(
                f"{run.folder / RESULTS}: {one_line(metric_label(number))} ({number['when']}) was measured on {one_line(weights)}, but "
                f"{run.folder / WEIGHTS} is {weights_sha256[:12]}...: evaluate again"
            )


def _check_arguments(arguments: dict[str, Any], where: str) -> None:
    for key, value in arguments.items():
        if not isinstance(value, (str, bool)) and not is_number(value):
            raise InputError(f"{where} has {one_line(key)}: {preview(value)}, must be a number or text")
    if "epoch" in arguments:
        UntrustedMapping(arguments, where).integer("epoch", 0, _MAX_NUMBER)


def _check_provenance(provenance: dict[str, Any], where: str) -> None:
    values = UntrustedMapping(provenance, where)
    for key in filter(values.has, _COUNTS):
        values.integer(key, 0, _MAX_NUMBER)
    for key in filter(values.has, _TEXTS):
        values.text(key, None)
    if values.has("environment"):
        values.mapping("environment", 100)
        values.texts("environment", 100)
    if values.has("resumed"):
        _check_text_list(values, "resumed")
    for key in filter(values.has, ("read_as", "preprocessing")):
        values.mapping(key, 100)


def _check_other_seeds(number: dict[str, Any], where: str) -> None:
    if "other_seeds" in number:
        for other in UntrustedMapping(number, where).sequence("other_seeds", _MAX_SEEDS):
            values = UntrustedMapping(other, f"{where}: 'other_seeds'")
            values.integer("seed", 0, 2**63 - 1)
            values.number("value", 1)
            values.text("weights_sha256", DIGEST)


def _check_text_list(values: UntrustedMapping, key: str) -> None:
    values.sequence(key, _MAX_TEXTS)
    values.texts(key, _MAX_TEXTS)
