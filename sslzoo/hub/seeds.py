"""Runs of one recipe with other seeds: what they measured stands next to the numbers of the run that is published."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sslzoo.errors import InputError
from sslzoo.provenance import identity
from sslzoo.run import Run

from .markdown import one_line
from .results_table import metric_label
from .results_validation import check_measured_on, checked_numbers, checked_training
from .validation import preview

_SAME_DATA = ("train_fingerprint", "test_fingerprint", "preprocessing")  # of a number's provenance


def add_seeds(run: Run, folders: Sequence[str | Path]) -> None:
    """Adds to each number of the run's weights what finished runs of the same recipe with other seeds gave.

    It is stored in results.json as the number's "other_seeds", [{"seed": 1, "value": 0.858, "weights_sha256": "..."}, ...], in place of
    an earlier one; a number that is measured anew has none. Raises `InputError`, before anything is written, for a run whose recipe
    differs in more than the seed, that has a seed or weights of another, or that was not measured in the same way on the same data.
    """
    results, numbers = run.results(), _last_numbers(run)
    seeds, weights = {run.recipe.seed: run.folder}, {run.weights_sha256: run.folder}
    others: dict[str, list[dict[str, Any]]] = {key: [] for key in numbers}
    for other in sorted(map(Run, folders), key=lambda one: one.recipe.seed):
        _check_same_but_seed(run, other)
        seed, digest = other.recipe.seed, other.weights_sha256
        for known, value, what in ((seeds, seed, f"the seed {seed}"), (weights, digest, "the same weights")):
            if value in known:
                raise InputError(f"{other.folder} has {what}, and so has {known[value]}: name runs of different seeds")
            known[value] = other.folder
        found = _last_numbers(other)
        for key, number in numbers.items():
            same = found.get(key)
            if same is None or any(same["provenance"].get(fact) != number["provenance"].get(fact) for fact in _SAME_DATA):
                what = f"{one_line(metric_label(number))} by {one_line(number['protocol'])} on {one_line(number['dataset'])}"
                raise InputError(f"{other.folder} lacks {what}, or has it of other images: measure it first as {run.folder} was")
            others[key].append({"seed": seed, "value": same["value"], "weights_sha256": digest})
    for number in results["numbers"]:
        if number["when"] == "last":
            number["other_seeds"] = others[identity(number)]
    run.write_results(results)


def _last_numbers(run: Run) -> dict[str, dict[str, Any]]:
    """The numbers of a finished run's weights by their identity."""
    checked_training(run)
    numbers = checked_numbers(run)
    check_measured_on(run, numbers, run.weights_sha256)
    return {identity(number): number for number in numbers if number["when"] == "last"}


def _check_same_but_seed(run: Run, other: Run) -> None:
    one, two = run.recipe.public().flat(), other.recipe.public().flat()
    for key in sorted({*one, *two} - {"seed"}):
        if one.get(key) != two.get(key):
            values = f"{preview(two.get(key))}, and {preview(one.get(key))} in {run.folder}"
            raise InputError(f"{other.folder} is no other seed of the same recipe: its {key} is {values}")
