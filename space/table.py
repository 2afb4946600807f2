"""The leaderboard as headings and rows: one column per comparable measurement, one row per model and split."""

from collections.abc import Iterable
from typing import NamedTuple

from sslzoo.evaluation import PROTOCOLS
from sslzoo.hub import KNN_PROTOCOL, KNN_SETTING, Entry, Measurement

_METRICS = {"knn_top1": "kNN", "linear_top1": "Linear", "finetune_top1": "Fine-tuned"}


class Column(NamedTuple):
    """Measurements that can be compared with one another."""

    metric: str
    protocol: str
    setting: tuple


def columns(entries: Iterable[Entry]) -> list[Column]:
    """One for every protocol and setting that occurs, if this version of sslzoo knows the protocol; kNN only in the page's setting."""
    found = {Column(one.metric, one.protocol, one.setting) for entry in entries for one in entry.comparable}
    known = (column for column in found if column.metric in _METRICS and column.protocol in PROTOCOLS)
    kept = (column for column in known if column.protocol != KNN_PROTOCOL or column.setting == KNN_SETTING)
    return sorted(kept, key=lambda column: (list(_METRICS).index(column.metric), column.protocol, setting_name(column.setting)))


def heading(column: Column, all_columns: list[Column]) -> str:
    """The metric; with protocol and setting if the metric has several columns."""
    if sum(column.metric == other.metric for other in all_columns) == 1:
        return _METRICS[column.metric]
    return " ".join(part for part in (_METRICS[column.metric], column.protocol, setting_name(column.setting)) if part)


def benchmark(entry: Entry, split: str) -> str:
    """The data set of a row, with its split if that is not "test"; rows of different splits can be filtered by it."""
    return entry.dataset if split == "test" else f"{entry.dataset} ({split})"


def splits(entry: Entry) -> list[str]:
    """Splits that the entry was measured on, "test" if there is none."""
    return list(dict.fromkeys(measurement.split for measurement in entry.comparable)) or ["test"]


def percentage(entry: Entry, column: Column, split: str) -> float | None:
    """The value in percent; the newest of several measurements that differ only in what they selected themselves."""
    found = [
        measurement.value for measurement in entry.comparable
        if measurement.split == split and Column(measurement.metric, measurement.protocol, measurement.setting) == column
    ]  # fmt: skip
    return 100 * found[-1] if found else None


def filter_rows(
    entries: Iterable[Entry], datasets: list[str], methods: list[str], encoders: list[str], starts: list[str], epochs: list[int]
) -> list[tuple[Entry, str]]:
    """Entries and splits that pass the filters; an empty list lets everything pass."""
    return [
        (entry, split) for entry in entries for split in splits(entry)
        if (not datasets or benchmark(entry, split) in datasets) and (not methods or entry.method in methods)
        and (not encoders or entry.encoder in encoders) and (not starts or entry.start in starts)
        and (not epochs or entry.epochs in epochs)
    ]  # fmt: skip


def make_table(rows: list[tuple[Entry, str]]) -> tuple[list[str], list[list[Entry | str | int | float | None]]]:
    """Headings, and the cells of each entry and split, the first of which is the entry; the best in the first measurement come first."""
    shown = columns(entry for entry, _ in rows)
    headings = ["Model"]
    for column in shown:
        headings += [heading(column, shown), "Reference"] if column.metric == "knn_top1" else [heading(column, shown)]
    cells = []
    for entry, split in rows:
        row = [entry]
        for column in shown:
            row.append(percentage(entry, column, split))
            if column.metric == "knn_top1":
                reference = entry.reference.get(column.metric)
                row.append(None if reference is None else 100 * reference)
        cells.append([*row, benchmark(entry, split), entry.method, entry.encoder, entry.epochs, entry.device_hours, entry.downloads])
    if shown:
        cells.sort(key=lambda row: -1 if row[1] is None else row[1], reverse=True)
    return [*headings, "Data set", "Method", "Encoder", "Epochs", "Device-hours", "Downloads"], cells


def metric_name(measurement: Measurement) -> str:
    """ "kNN top-1" """
    kind, _, top = measurement.metric.rpartition("_top")
    return f"{_METRICS.get(f'{kind}_top1', kind)} top-{top}" if kind and top.isdigit() else measurement.metric


def setting_name(arguments: tuple[tuple[str, int | float | str | bool], ...]) -> str:
    """ "k=20, temperature=0.1" """
    return ", ".join(f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in arguments)
