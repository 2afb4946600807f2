"""The leaderboard as a Markdown table, as it is in the README."""

from collections.abc import Iterable

from .entry import KNN_PROTOCOL, Entry

_COLUMNS = {
    "kNN, k = 20": (KNN_PROTOCOL, (("k", 20), ("temperature", 0.1))),
    "kNN, k = 200": (KNN_PROTOCOL, (("k", 200), ("temperature", 0.1))),
    "linear, fast": ("linear-features-v1", ()),
}


def markdown_table(entries: Iterable[Entry]) -> str:
    """One row per model, grouped by data set, the best first: top-1 accuracies of the published weights on the test images, in percent."""
    rows = []
    for entry in entries:
        top1 = {(found.protocol, found.setting): found.value for found in entry.comparable if found.metric.endswith("_top1")}
        values = [f"{100 * top1[column]:.1f}" if column in top1 else "–" for column in _COLUMNS.values()]
        best = max(top1.values(), default=0.0)
        name, minutes = entry.name.partition("/")[2], entry.seconds / 60
        cells = [
            f"[{name}](model_cards/{name}/README.md)", entry.dataset, entry.method, entry.encoder, f"{entry.epochs}", *values,
            f"{minutes:.1f}",
        ]  # fmt: skip
        rows.append((entry.dataset, -best, f"| {' | '.join(cells)} |"))
    headings = ["model", "data set", "method", "encoder", "epochs", *_COLUMNS, "minutes"]
    ruler = ["---"] * 4 + ["---:"] * (len(headings) - 4)
    return "\n".join([f"| {' | '.join(headings)} |", f"|{'|'.join(ruler)}|", *(row for *_, row in sorted(rows))])
