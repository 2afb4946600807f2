"""The numbers in results.json: held against the weights beside them, and as rows of a table."""

import math
from typing import Any, NamedTuple

from sslzoo.errors import InputError
from sslzoo.recipe import Recipe
from sslzoo.run import RESULTS, WEIGHTS, Run

from .sources import source_name

_EVALUATIONS = {"knn": "kNN", "linear": "linear", "finetune": "fine-tuned"}
_SYMBOLS = {"temperature": "T"}
_KEYS = {"protocol": str, "dataset": str, "split": str, "metric": str, "arguments": dict, "when": str, "provenance": dict}


class Row(NamedTuple):
    """One measurement: what it was, and its values in percent as text, "" where there is none."""

    metric: str
    setting: str  # "k=20, T=0.1"
    last: str
    best: str
    best_epoch: str  # counted from 1
    reference: str
    dataset: str
    split: str
    train_images: str
    test_images: str
    protocol: str


def checked_numbers(run: Run, weights_sha256: str) -> list[dict[str, Any]]:
    """All numbers of the run, in the order of the file.

    Raises `InputError` for one that is no number of sslzoo's, or that was not measured on the weights in the folder. A "best" number is
    of an epoch on the way, whose weights are not kept: it names none.
    """
    file = run.folder / RESULTS
    numbers = run.results()["numbers"]
    for number in numbers:
        if not isinstance(number, dict) or any(not isinstance(number.get(key), kind) for key, kind in _KEYS.items()):
            raise InputError(f"{file}: a number must hold {', '.join(_KEYS)} and 'value', not {str(number)[:120]}: evaluate again")
        value, label, when = number.get("value"), metric_label(number), number["when"]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or not 0 <= value <= 1:
            raise InputError(f"{file}: {label} is {value!r}: must be a fraction from 0 to 1; evaluate again")
        if when not in ("last", "best"):
            raise InputError(f"{file}: {label} has 'when': {when!r}: must be 'last' or 'best'")
        measured_on = number["provenance"].get("weights_sha256")
        if measured_on != weights_sha256 and not (when == "best" and measured_on is None):
            of = f"weights {str(measured_on)[:12]}..." if measured_on else "weights that it does not name"
            raise InputError(
                f"{file}: {label} ({when}) was measured on {of}, but {run.folder / WEIGHTS} is {weights_sha256[:12]}...: evaluate again"
            )
    return numbers


def metric_label(number: dict[str, Any]) -> str:
    """ "kNN top-1 (k=20, T=0.1)" """
    setting = _setting(number)
    return _metric(number) + (f" ({setting})" if setting else "")


def table(numbers: list[dict[str, Any]], recipe: Recipe) -> list[Row]:
    """One row for each measurement, its last and best value side by side.

    The recipe's reference stands where the same metric was measured on the recipe's own data set.
    """
    rows: dict[tuple[str, ...], Row] = {}
    for number in numbers:
        provenance, own = number["provenance"], number["dataset"] == recipe.dataset
        reference = recipe.reference.get(number["metric"]) if own else None
        row = Row(
            _metric(number), _setting(number), "", "", "", "" if reference is None else _percent(reference), source_name(number["dataset"]),
            number["split"], count(provenance.get("train_images")), count(provenance.get("test_images")), number["protocol"],
        )  # fmt: skip
        key = (number["dataset"], number["protocol"], *row)
        row = rows.get(key, row)
        if number["when"] == "last":
            rows[key] = row._replace(last=_percent(number["value"]))
        else:
            epoch = number["arguments"].get("epoch")
            rows[key] = row._replace(best=_percent(number["value"]), best_epoch="" if epoch is None else str(epoch + 1))
    return list(rows.values())


def count(images: int | None) -> str:
    """ "50,000", "?" where it is not known."""
    return f"{images:,}" if isinstance(images, int) else "?"


def _metric(number: dict[str, Any]) -> str:
    evaluation, _, top = number["metric"].rpartition("_top")
    return f"{_EVALUATIONS.get(evaluation, evaluation)} top-{top}" if evaluation else number["metric"]


def _setting(number: dict[str, Any]) -> str:
    return ", ".join(f"{_SYMBOLS.get(key, key)}={value}" for key, value in number["arguments"].items() if key != "epoch")


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}"
