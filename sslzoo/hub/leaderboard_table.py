"""The leaderboard as a Markdown table, as it is in the README."""

from collections.abc import Iterable

from .entry import KNN_PROTOCOL, Entry

_COLUMNS = {
    "kNN, k = 20": (KNN_PROTOCOL, (("k", 20), ("temperature", 0.1))),
    "kNN, k = 200": (KNN_PROTOCOL, (("k", 200), ("temperature", 0.1))),
    "linear, fast": ("linear-features-v1", ()),
}


def markdown_table(entries: Iterable[Entry]) -> str:
    """One row per model, grouped by data set, the best first: top-1 accuracies of the published weights on the test images, in percent.

    Where the recipe was trained with several seeds it is their mean, with the lowest and the highest.
    """
    rows = []
    for entry in entries:
        top1 = {
            (found.protocol, found.setting): [found.value, *found.other_seeds]
            for found in entry.comparable if found.metric.endswith("_top1")
        }  # fmt: skip
        values = [_mean_and_range(top1[column]) if column in top1 else "–" for column in _COLUMNS.values()]
        best = max((sum(values) / len(values) for values in top1.values()), default=0.0)
        seeds = max((len(values) for values in top1.values()), default=1)
        name, minutes = entry.name.partition("/")[2], entry.seconds / 60
        cells = [
            f"[{name}](model_cards/{name}/README.md)", entry.dataset, entry.method, entry.encoder, f"{entry.epochs}", f"{seeds}",
            *values, f"{minutes:.1f}",
        ]  # fmt: skip
        rows.append((entry.dataset, -best, f"| {' | '.join(cells)} |"))
    headings = ["model", "data set", "method", "encoder", "epochs", "seeds", *_COLUMNS, "minutes"]
    ruler = ["---"] * 4 + ["---:"] * (len(headings) - 4)
    return "\n".join([f"| {' | '.join(headings)} |", f"|{'|'.join(ruler)}|", *(row for *_, row in sorted(rows))])


def _mean_and_range(values: list[float]) -> str:
    """ "87.9 (85.8–89.8)", or the value alone where there is one."""
    low, mean, high = (f"{100 * value:.1f}" for value in (min(values), sum(values) / len(values), max(values)))
    return mean if len(values) == 1 else f"{mean} ({low}–{high})"
