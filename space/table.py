"""The leaderboard as tables, one for each data set: rows that are ranked together are measured on the same images."""

from collections.abc import Iterable
from typing import NamedTuple

from sslzoo.hub import KNN_PROTOCOL, KNN_SETTING, Entry, Measurement

_METRICS = {"knn_top1": "kNN", "linear_top1": "Linear", "finetune_top1": "Fine-tuned"}
# Those of `sslzoo.evaluation.PROTOCOLS`, whose import would import torch: the first page would wait for it.
_PROTOCOLS = (
    "knn-instdisc-v2", "knn-instdisc-bf16-v2", "knn-instdisc-fp16-v2", "linear-features-v1", "linear-simclr-v1", "linear-mae-v1",
    "finetune-simclr-v1", "finetune-mae-v1",
)  # fmt: skip


class Column(NamedTuple):
    """Measurements that can be compared with one another."""

    metric: str
    protocol: str
    setting: tuple


class Row(NamedTuple):
    """A model on one data set. values: in percent, one for each column of the table. reference: of the first column, in percent."""

    entry: Entry
    values: list[float | None]
    reference: float | None

    @property
    def difference(self) -> float | None:
        """Ours above the reference, in percentage points."""
        return None if self.reference is None or not self.values or self.values[0] is None else self.values[0] - self.reference


class Table(NamedTuple):
    """The models of one data set and split, the best in the first column first."""

    benchmark: str
    columns: list[Column]
    rows: list[Row]


def make_tables(rows: list[tuple[Entry, str]]) -> list[Table]:
    """Of entries and splits, as `filter_rows` gives them. Data sets with references come first, then those with the most models."""
    groups: dict[str, list[tuple[Entry, str]]] = {}
    for entry, split in rows:
        groups.setdefault(benchmark(entry, split), []).append((entry, split))
    tables = [_table(name, group) for name, group in groups.items()]
    return sorted(tables, key=lambda table: (all(row.reference is None for row in table.rows), -len(table.rows), table.benchmark))


def _table(name: str, group: list[tuple[Entry, str]]) -> Table:
    shown = columns(group)
    rows = []
    for entry, split in group:
        reference = entry.reference.get(shown[0].metric) if shown else None
        values = [percentage(entry, column, split) for column in shown]
        rows.append(Row(entry, values, None if reference is None else 100 * reference))
    if shown:
        rows.sort(key=lambda row: -1 if row.values[0] is None else row.values[0], reverse=True)
    return Table(name, shown, rows)


def columns(group: Iterable[tuple[Entry, str]]) -> list[Column]:
    """One for every protocol and setting that occurs, if this version of sslzoo knows the protocol; kNN only in the page's setting."""
    found = {
        Column(one.metric, one.protocol, one.setting) for entry, split in group for one in entry.comparable if one.split == split
    }  # fmt: skip
    known = (column for column in found if column.metric in _METRICS and column.protocol in _PROTOCOLS)
    kept = (column for column in known if column.protocol != KNN_PROTOCOL or column.setting == KNN_SETTING)
    return sorted(kept, key=lambda column: (list(_METRICS).index(column.metric), column.protocol, setting_name(column.setting)))


def heading(column: Column, all_columns: list[Column]) -> str:
    """The metric; with protocol and setting if the metric has several columns."""
    if sum(column.metric == other.metric for other in all_columns) == 1:
        return _METRICS[column.metric]
    return " ".join(part for part in (_METRICS[column.metric], column.protocol, setting_name(column.setting)) if part)


def benchmark(entry: Entry, split: str) -> str:
    """The data set of a row, with its split if that is not "test"; rows of different splits are never ranked together."""
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
    entries: Iterable[Entry], name: str, datasets: list[str], methods: list[str], encoders: list[str], starts: list[str],
    epochs: list[int],
) -> list[tuple[Entry, str]]:  # fmt: skip
    """Entries and splits that pass the filters; an empty list lets everything pass. name: every word of it is a part of the model's."""
    words = name.lower().split()
    return [
        (entry, split) for entry in entries for split in splits(entry)
        if all(word in entry.name.lower() for word in words) and (not datasets or benchmark(entry, split) in datasets)
        and (not methods or entry.method in methods) and (not encoders or entry.encoder in encoders)
        and (not starts or entry.start in starts) and (not epochs or entry.epochs in epochs)
    ]  # fmt: skip


def metric_name(measurement: Measurement) -> str:
    """ "kNN top-1" """
    kind, _, top = measurement.metric.rpartition("_top")
    return f"{_METRICS.get(f'{kind}_top1', kind)} top-{top}" if kind and top.isdigit() else measurement.metric


def setting_name(arguments: tuple[tuple[str, int | float | str | bool], ...]) -> str:
    """ "k=20, temperature=0.1" """
    return ", ".join(f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in arguments)


def duration(seconds: float) -> str:
    """ "17 s", "2.5 min", "5.1 h" """
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:,.1f} h"
