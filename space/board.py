"""What the Space knows of the models: what the Hub lists, asked now and then, and as rows of a table."""

import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from sslzoo.evaluation import PROTOCOLS
from sslzoo.hub import KNN_PROTOCOL, KNN_SETTING, Entry, ListedModel, Measurement, Quarantined, card_models, hub_models, read_entries

_METRICS = {"knn_top1": "kNN", "linear_top1": "Linear", "finetune_top1": "Fine-tuned"}


class Listing(NamedTuple):
    """entries: by name, the project's own first. source: where they are from, in a few words."""

    entries: dict[str, Entry]
    quarantined: list[Quarantined]
    source: str


class Column(NamedTuple):
    """Numbers that may be compared with one another."""

    metric: str
    protocol: str
    setting: tuple


class Board:
    """The listing, never older than `fresh` seconds when the Hub answers.

    ask: the Hub. cards: a folder of cards that stand in until the Hub has answered, None for those of sslzoo. patience: how many seconds
    the very first visitor waits for the Hub; all later ones get at once what is there.
    """

    def __init__(
        self, ask: Callable[[], list[ListedModel]] = hub_models, cards: Path | None = None, fresh: float = 600, patience: float = 8
    ):  # fmt: skip
        self._ask, self._fresh, self._patience = ask, fresh, patience
        self._listing = _listing(card_models(cards), "the cards that come with sslzoo, as the Hub has not answered")
        self._asked = -float("inf")
        self._lock, self._answered = threading.Lock(), threading.Event()

    def now(self) -> Listing:
        """What is known; asks the Hub in the background when that is old."""
        with self._lock:
            stale = time.monotonic() - self._asked > self._fresh
            if stale:
                self._asked = time.monotonic()
        if stale:
            threading.Thread(target=self._refresh, daemon=True).start()
        self._answered.wait(self._patience)
        return self._listing

    def _refresh(self) -> None:
        try:
            self._listing = _listing(self._ask(), f"the Hub, asked at {time.strftime('%H:%M', time.gmtime())} UTC")
        except ConnectionError:
            self._asked = time.monotonic() - self._fresh + min(60, self._fresh)  # again in a minute; what was known stays
        self._answered.set()


def _listing(models: list[ListedModel], source: str) -> Listing:
    sound, quarantined = read_entries(models)
    ordered = sorted(sound, key=lambda entry: (not entry.own, entry.name.lower()))
    return Listing({entry.name: entry for entry in ordered}, quarantined, source)


def columns(shown: Iterable[Entry]) -> list[Column]:
    """One for every protocol and setting that occurs, of the protocols that this version of sslzoo knows; kNN in the page's setting."""
    found = {Column(number.metric, number.protocol, number.setting) for entry in shown for number in entry.comparable}
    known = (column for column in found if column.metric in _METRICS and column.protocol in PROTOCOLS)
    kept = (column for column in known if column.protocol != KNN_PROTOCOL or column.setting == KNN_SETTING)
    return sorted(kept, key=lambda column: (list(_METRICS).index(column.metric), column.protocol, setting_name(column.setting)))


def heading(column: Column, every: list[Column]) -> str:
    """Short where a metric has one column, with protocol and setting where it has several."""
    if sum(column.metric == other.metric for other in every) == 1:
        return _METRICS[column.metric]
    return " ".join(part for part in (_METRICS[column.metric], column.protocol, setting_name(column.setting)) if part)


def benchmark(entry: Entry, split: str) -> str:
    """What a row is measured on: numbers of different splits do not share a row, and a filter tells them apart."""
    return entry.dataset if split == "test" else f"{entry.dataset} ({split})"


def splits(entry: Entry) -> list[str]:
    """Splits that the entry was measured on, "test" where there is none."""
    return list(dict.fromkeys(number.split for number in entry.comparable)) or ["test"]


def value(entry: Entry, column: Column, split: str) -> float | None:
    """In percent; of several measurements that differ in nothing but what they chose themselves, the newest."""
    found = [
        number.value for number in entry.comparable
        if number.split == split and Column(number.metric, number.protocol, number.setting) == column
    ]  # fmt: skip
    return 100 * found[-1] if found else None


def chosen(
    every: Iterable[Entry], datasets: list[str], methods: list[str], encoders: list[str], epochs: list[int]
) -> list[tuple[Entry, str]]:
    """Entries and splits that pass the filters; an empty list lets all pass."""
    return [
        (entry, split) for entry in every for split in splits(entry)
        if (not datasets or benchmark(entry, split) in datasets) and (not methods or entry.method in methods)
        and (not encoders or entry.encoder in encoders) and (not epochs or entry.epochs in epochs)
    ]  # fmt: skip


def table(rows: list[tuple[Entry, str]]) -> tuple[list[str], list[list[Entry | str | int | float | None]]]:
    """Headings, and a row of values for each entry and split, the best of the first number first. The first value is the entry itself."""
    wanted = columns(entry for entry, _ in rows)
    headings = ["Model"]
    for column in wanted:
        headings += [heading(column, wanted), "Reference"] if column.metric == "knn_top1" else [heading(column, wanted)]
    values = []
    for entry, split in rows:
        row = [entry]
        for column in wanted:
            row.append(value(entry, column, split))
            if column.metric == "knn_top1":
                reference = entry.reference.get(column.metric)
                row.append(None if reference is None else 100 * reference)
        values.append(
            [*row, benchmark(entry, split), entry.method, entry.encoder, entry.epochs, entry.device_hours, entry.downloads]
        )  # fmt: skip
    if wanted:
        values.sort(key=lambda row: -1 if row[1] is None else row[1], reverse=True)
    return [*headings, "Data set", "Method", "Encoder", "Epochs", "Device-hours", "Downloads"], values


def metric_name(number: Measurement) -> str:
    """ "kNN top-1" """
    kind, _, top = number.metric.rpartition("_top")
    return f"{_METRICS.get(f'{kind}_top1', kind)} top-{top}" if kind and top.isdigit() else number.metric


def setting_name(arguments: tuple[tuple[str, int | float | str | bool], ...]) -> str:
    """ "k=20, temperature=0.1" """
    return ", ".join(f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in arguments)
