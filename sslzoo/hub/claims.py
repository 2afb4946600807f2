"""What a model card claims, held against the results.json beside it."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from huggingface_hub import ModelCard

from sslzoo.errors import InputError, first_line
from sslzoo.run import CARD, Run, identity

from .markdown import escape
from .numbers import metric_label, table


class Claim(NamedTuple):
    """A number of the card, the place it stands in, and what results.json says; None where one of the two has no such number."""

    what: str
    card: Any
    results: Any


def card_claims(run: Run) -> list[Claim]:
    """Every number of the card three times: in its sslzoo block, in its model-index, and in its table. Raises `InputError`."""
    try:
        card = ModelCard.load(run.folder / CARD)
        block = card.data.to_dict()["sslzoo"]["numbers"]
        claimed = {identity(number): number["value"] for number in block}
        results = card.data.eval_results or []
        indexed = {(result.dataset_name, result.dataset_split, result.metric_name): result.metric_value for result in results}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"cannot read the numbers of {run.folder / CARD}: {first_line(error)}") from error
    numbers = run.results()["numbers"]
    measured = {identity(number): number["value"] for number in numbers}
    labels = {identity(number): f"{metric_label(number)}, {number['dataset']}, {number['when']}" for number in [*block, *numbers]}
    claims = [Claim(f"card: {labels[key]}", claimed.get(key), measured.get(key)) for key in {**measured, **claimed}]
    last = {
        (number["dataset"], number["split"], metric_label(number)): round(100 * number["value"], 2)
        for number in numbers if number["when"] == "last"
    }  # fmt: skip
    claims += [Claim(f"model-index: {', '.join(key)}", indexed.get(key), last.get(key)) for key in {**last, **indexed}]
    return claims + [Claim(f"table: {what}", shown, True) for what, shown in _shown(run, card.text)]


def _shown(run: Run, text: str) -> Iterator[tuple[str, bool]]:
    """Of every row that the card's table must have, whether it is there, value by value."""
    lines = [{cell.strip() for cell in line.strip("|").split("|")} for line in text.splitlines() if line.startswith("|")]
    for row in table(run.results()["numbers"], None):
        best = f"{row.best} ({row.best_epoch})" if row.best_epoch else row.best
        cells = {escape(cell) for cell in (row.metric, row.setting, row.last, best, row.protocol, f"{row.dataset}, {row.split}") if cell}
        yield f"{row.metric} ({row.setting}), {row.dataset}", any(cells <= line for line in lines)
