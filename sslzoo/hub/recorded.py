"""What results.json and metrics.jsonl record of a run, checked before a card says it.

Every function raises `InputError`, which names the file and the key.
"""

from typing import Any

from sslzoo.errors import InputError
from sslzoo.run import METRICS, RESULTS, WEIGHTS, Run

from .fields import Fields, is_number, shown
from .markdown import one_line
from .numbers import metric_label

_KEYS = {"protocol": str, "dataset": str, "split": str, "metric": str, "arguments": dict, "when": str, "provenance": dict}
_COUNTS = ("train_images", "test_images", "test_images_in_train", "skipped", "classes", "seed")
_TEXTS = ("weights_sha256", "train_split", "train_fingerprint", "test_fingerprint", "code", "date")
_MOST = 10**15
_MOST_TEXTS = 10**7


def checked_training(run: Run) -> dict[str, Any]:
    """The facts of a training that has ended."""
    file, training = run.folder / RESULTS, run.results()["training"]
    if not training:
        raise InputError(f"{file}: the training has not finished: train (or --resume) first")
    fields = Fields(training, f"{file}: 'training'")
    for key, least in (("images", 1), ("processes", 1), ("peak_memory_bytes", 0)):
        fields.whole(key, least, _MOST)
    for key in ("seconds", "images_per_second"):
        fields.number(key, _MOST)
    fields.texts("skipped_images", _MOST_TEXTS)
    fields.rows("skipped_images", _MOST_TEXTS)
    fields.texts("environment", 100)
    if fields.has("resumed"):
        fields.rows("resumed", _MOST_TEXTS)
        fields.texts("resumed", _MOST_TEXTS)
    Fields(fields.mapping("environment", 100), f"{file}: the training's 'environment'").text("hardware", None)
    return training


def checked_imported(run: Run) -> dict[str, Any]:
    """Where weights of others come from."""
    file, imported = run.folder / RESULTS, run.results()["imported"]
    fields = Fields(imported, f"{file}: 'imported'")
    for key in ("source", "sha256", "layout", "encoder"):
        fields.text(key, None)
    if fields.has("branch"):
        fields.text("branch", None)
    if fields.has("reported"):
        reported = Fields(imported["reported"], f"{file}: 'reported'")
        reported.text("by", None)
        for metric in reported.mapping("numbers", 100):
            Fields(imported["reported"]["numbers"], f"{file}: 'reported'").number(metric, 1)
    return imported


def checked_numbers(run: Run) -> list[dict[str, Any]]:
    """All numbers of the run, in the order of the file."""
    file, numbers = run.folder / RESULTS, run.results()["numbers"]
    for number in numbers:
        if not isinstance(number, dict) or any(not isinstance(number.get(key), kind) for key, kind in _KEYS.items()):
            raise InputError(
                f"{file}: a number must hold {', '.join(_KEYS)} and 'value', not {one_line(str(number)[:120])}: evaluate again"
            )
        label, when, value = one_line(metric_label(number)), number["when"], number.get("value")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise InputError(f"{file}: {label} is {shown(value)}: must be a fraction from 0 to 1; evaluate again")
        if when not in ("last", "best"):
            raise InputError(f"{file}: {label} has 'when': {shown(when)}: must be 'last' or 'best'")
        _check_arguments(number["arguments"], f"{file}: {label}: 'arguments'")
        _check_provenance(number["provenance"], f"{file}: {label}: 'provenance'")
    return numbers


def checked_metrics(run: Run) -> list[dict[str, Any]]:
    """What was logged, each line with its step."""
    file, lines = run.folder / METRICS, run.metrics()
    for place, line in enumerate(lines, 1):
        Fields(line, f"{file}, line {place}").whole("step", 0, _MOST)
    if not any(is_number(line.get("loss")) for line in lines):
        raise InputError(f"{file} holds no loss: was the training finished?")
    return lines


def check_measured_on(run: Run, numbers: list[dict[str, Any]], weights_sha256: str) -> None:
    """Refuses numbers that were not measured on these weights. A "best" one is of an epoch whose weights are not kept: it names none."""
    for number in numbers:
        measured_on = number["provenance"].get("weights_sha256")
        if measured_on != weights_sha256 and not (number["when"] == "best" and measured_on is None):
            of = f"weights {measured_on[:12]}..." if measured_on else "weights that it does not name"
            raise InputError(
                f"{run.folder / RESULTS}: {one_line(metric_label(number))} ({number['when']}) was measured on {one_line(of)}, but "
                f"{run.folder / WEIGHTS} is {weights_sha256[:12]}...: evaluate again"
            )


def _check_arguments(arguments: dict[str, Any], where: str) -> None:
    for key, value in arguments.items():
        if not isinstance(value, (str, bool)) and not is_number(value):
            raise InputError(f"{where} has {one_line(key)}: {shown(value)}, must be a number or text")
    if "epoch" in arguments:
        Fields(arguments, where).whole("epoch", 0, _MOST)


def _check_provenance(provenance: dict[str, Any], where: str) -> None:
    fields = Fields(provenance, where)
    for key in filter(fields.has, _COUNTS):
        fields.whole(key, 0, _MOST)
    for key in filter(fields.has, _TEXTS):
        fields.text(key, None)
    if fields.has("environment"):
        fields.mapping("environment", 100)
        fields.texts("environment", 100)
    if fields.has("resumed"):
        fields.rows("resumed", _MOST_TEXTS)
        fields.texts("resumed", _MOST_TEXTS)
    for key in filter(fields.has, ("read_as", "preprocessing")):
        fields.mapping(key, 100)
