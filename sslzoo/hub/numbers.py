"""The numbers in results.json: held against the weights beside them, and as rows of a table."""

import math
from typing import Any, NamedTuple

from sslzoo.data import source_name
from sslzoo.errors import InputError
from sslzoo.recipe import Recipe
from sslzoo.run import RESULTS, WEIGHTS, Run

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
    return metric_name(number["metric"]) + (f" ({setting})" if setting else "")


def table(numbers: list[dict[str, Any]], recipe: Recipe | None) -> list[Row]:
    """One row for each measurement, its last and best value side by side.

    The recipe's reference stands beside what was measured as it was.
    """
    rows: dict[tuple[str, ...], Row] = {}
    for number in numbers:
        provenance, reference = number["provenance"], reference_of(number, recipe) if recipe else None
        row = Row(
            metric_name(number["metric"]), _setting(number), "", "", "", "" if reference is None else percent(reference),
            source_name(number["dataset"]), number["split"], count(provenance.get("train_images")), count(provenance.get("test_images")),
            number["protocol"],
        )  # fmt: skip
        key = (number["dataset"], number["protocol"], *row)
        row = rows.get(key, row)
        if number["when"] == "last":
            rows[key] = row._replace(last=percent(number["value"]))
        else:
            epoch = number["arguments"].get("epoch")
            rows[key] = row._replace(best=percent(number["value"]), best_epoch="" if epoch is None else str(epoch + 1))
    return list(rows.values())


def reference_of(number: dict[str, Any], recipe: Recipe) -> float | None:
    """The recipe's reference for a number on its own data set; for kNN only at the reference's k and temperature."""
    if number["dataset"] != source_name(recipe.dataset):
        return None
    arguments = number["arguments"]
    knn = (arguments.get("k", recipe.reference_k), arguments.get("temperature", 0.1))
    return recipe.reference.get(number["metric"]) if knn == (recipe.reference_k, 0.1) else None


def provenance_lines(numbers: list[dict[str, Any]]) -> list[str]:
    """For each measurement of the weights, on what, with what, when and from which data it was made."""
    lines = []
    for number in numbers:
        provenance = number["provenance"]
        if number["when"] == "last":
            splits = ", ".join(f"{split} {_short(provenance.get(f'{split}_fingerprint'))}" for split in ("train", "test"))
            where = (provenance.get("environment") or {}).get("hardware", "hardware not recorded")
            where += f", {provenance['precision']}" if provenance.get("precision") else ""
            when = f"{provenance.get('date')}, sslzoo {provenance.get('code')}, seed {provenance.get('seed')}"
            weights = _short(provenance["weights_sha256"])
            lines.append(f"{number['protocol']} on {source_name(number['dataset'])} ({splits}): {where}, {when}, weights {weights}")
    return list(dict.fromkeys(lines))


def count(images: int | None, unknown: str = "?") -> str:
    """ "50,000", `unknown` where it is not known."""
    return f"{images:,}" if isinstance(images, int) else unknown


def metric_name(metric: str) -> str:
    """ "kNN top-1" for "knn_top1"."""
    evaluation, _, top = metric.rpartition("_top")
    return f"{_EVALUATIONS.get(evaluation, evaluation)} top-{top}" if evaluation else metric


def percent(fraction: float) -> str:
    """ "84.80" for 0.848."""
    return f"{100 * fraction:.2f}"


def _short(digest: str | None) -> str:
    return f"{digest[:12]}…" if digest else "not recorded"


def _setting(number: dict[str, Any]) -> str:
    shown = {_SYMBOLS.get(key, key.removeprefix("selected_")): value for key, value in number["arguments"].items() if key != "epoch"}
    return ", ".join(f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in shown.items())
