"""The numbers of results.json as labels, as the rows of the card's results table, and as lines of provenance."""

from typing import Any, NamedTuple

from sslzoo.data import source_name
from sslzoo.recipe import Recipe

_EVALUATIONS = {"knn": "kNN", "linear": "linear", "finetune": "fine-tuned"}
_SYMBOLS = {"temperature": "T"}


class Row(NamedTuple):
    """One measurement as text: what was measured, and its values in percent, "" where there is none."""

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
    seeds: str = ""  # "87.20 (85.80–89.80)", of the runs with all seeds


def metric_label(number: dict[str, Any]) -> str:
    """ "kNN top-1 (k=20, T=0.1)" """
    setting = _setting(number)
    return metric_name(number["metric"]) + (f" ({setting})" if setting else "")


def results_table(numbers: list[dict[str, Any]], recipe: Recipe | None) -> list[Row]:
    """One row per measurement, with its last and best value, and the recipe's reference where it was measured in the same way."""
    rows: dict[tuple[str, ...], Row] = {}
    for number in numbers:
        provenance, reference = number["provenance"], reference_for(number, recipe) if recipe else None
        row = Row(
            metric_name(number["metric"]), _setting(number), "", "", "", "" if reference is None else format_percent(reference),
            source_name(number["dataset"]), number["split"], format_count(provenance.get("train_images")),
            format_count(provenance.get("test_images")), number["protocol"],
        )  # fmt: skip
        key = (number["dataset"], number["protocol"], *row)
        row = rows.get(key, row)
        if number["when"] == "last":
            rows[key] = row._replace(last=format_percent(number["value"]), seeds=_mean_and_range(number))
        else:
            epoch = number["arguments"].get("epoch")
            rows[key] = row._replace(best=format_percent(number["value"]), best_epoch="" if epoch is None else str(epoch + 1))
    return list(rows.values())


def headline(numbers: list[dict[str, Any]], recipe: Recipe | None) -> list[Row]:
    """The rows that matter first: top-1 of the published weights by each protocol, of kNN at the reference page's temperature of 0.1."""
    first = [
        {**number, "arguments": {key: value for key, value in number["arguments"].items() if key == "k"}}
        for number in numbers
        if number["when"] == "last" and number["metric"].endswith("_top1") and number["arguments"].get("temperature", 0.1) == 0.1
    ]
    return results_table(first, recipe)


def reference_for(number: dict[str, Any], recipe: Recipe) -> float | None:
    """The recipe's reference for a number on the recipe's data set; for kNN only at the reference's k and temperature."""
    if number["dataset"] != source_name(recipe.dataset):
        return None
    arguments = number["arguments"]
    knn = (arguments.get("k", recipe.reference_k), arguments.get("temperature", 0.1))
    return recipe.reference.get(number["metric"]) if knn == (recipe.reference_k, 0.1) else None


def provenance_lines(numbers: list[dict[str, Any]]) -> list[str]:
    """One line per protocol and data set that the published weights were measured by: data, hardware, date, code, seed and weights."""
    lines = []
    for number in numbers:
        provenance = number["provenance"]
        if number["when"] == "last":
            splits = ", ".join(f"{split} {_short(provenance.get(f'{split}_fingerprint'))}" for split in ("train", "test"))
            where = (provenance.get("environment") or {}).get("hardware", "hardware not recorded")
            where += f", {provenance['precision']}" if provenance.get("precision") else ""
            when = f"{provenance.get('date')}, sslzoo {provenance.get('code')}, seed {provenance.get('seed')}"
            weights = _short(provenance.get("weights_sha256"))
            lines.append(f"{number['protocol']} on {source_name(number['dataset'])} ({splits}): {where}, {when}, weights {weights}")
    return list(dict.fromkeys(lines))


def format_count(images: int | None, unknown: str = "?") -> str:
    """ "50,000"; `unknown` for None."""
    return f"{images:,}" if isinstance(images, int) else unknown


def metric_name(metric: str) -> str:
    """ "kNN top-1" for "knn_top1"."""
    evaluation, _, top = metric.rpartition("_top")
    return f"{_EVALUATIONS.get(evaluation, evaluation)} top-{top}" if evaluation else metric


def format_percent(fraction: float) -> str:
    """ "84.80" for 0.848."""
    return f"{100 * fraction:.2f}"


def seeds_of(numbers: list[dict[str, Any]], own: int) -> list[int]:
    """The seeds of all runs that the numbers are of; [] where they are of one run alone."""
    others = {other["seed"] for number in numbers for other in number.get("other_seeds", ())}
    return sorted({own, *others}) if others else []


def _mean_and_range(number: dict[str, Any]) -> str:
    others = [other["value"] for other in number.get("other_seeds", ())]
    values = [number["value"], *others]
    low, mean, high = map(format_percent, (min(values), sum(values) / len(values), max(values)))
    return f"{mean} ({low}–{high})" if others else ""


def _short(digest: str | None) -> str:
    return f"{digest[:12]}…" if digest else "not recorded"


def _setting(number: dict[str, Any]) -> str:
    shown = {_SYMBOLS.get(key, key.removeprefix("selected_")): value for key, value in number["arguments"].items() if key != "epoch"}
    return ", ".join(f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in shown.items())
