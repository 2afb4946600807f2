"""Draws curves.png: loss, learning rate, feature rank and kNN accuracy over the training steps."""

import math
from collections import Counter
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sslzoo.run import Run

from .pictures import CURVES, DPI, WIDTH, save_picture
from .results_validation import checked_metrics
from .validation import is_number

_RANK, _KNN_TITLE = "feature_rank", "kNN top-1 in percent"
_KNN_PREFIX = "knn_top1 "  # a key of metrics.jsonl is "knn_top1 k=20 T=0.1"
_HEIGHT = 2.9  # inches, of a row of panels
# The background is transparent. Contrast to white and to the dark pages of GitHub and the Hub (#0d1117, #0b0f19): at least 3 for lines,
# whose colours are distinguishable with colour blindness, and 4.2 for texts.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8C6BD1", "#A8760B")
_INK = "#767B82"

Curve = tuple[list[int], list[float]]  # steps and values


def draw_curves(run: Run) -> Path | None:
    """Draws what metrics.jsonl logged at least twice; None, and no picture, where there is no such value. Raises `InputError`.

    Of several kNN settings that share their k, which hardly differ, the one that was logged most often is drawn, the first of equals.
    """
    lines, file = checked_metrics(run), run.folder / CURVES
    panels = _panels(lines, run.recipe.log_every)
    if not panels:
        file.unlink(missing_ok=True)
        return None
    columns = len(panels) if len(panels) in (1, 3) else 2
    rows = math.ceil(len(panels) / columns)
    figure = blank_figure(_HEIGHT * rows)
    for index, (title, curves) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(rows, columns, index)
        draw_panel(axes, title, curves)
        axes.set_xlim(0, 1.03 * max(line["step"] for line in lines))
        if title == _KNN_TITLE:
            _draw_reference(axes, run)
            draw_legend(axes)
    return save_picture(figure, file)


def has_curves(run: Run) -> bool:
    """Whether `draw_curves` draws something. Raises `InputError`."""
    return bool(_panels(checked_metrics(run), run.recipe.log_every))


def curve(lines: list[dict], key: str, scale: float = 1) -> Curve:
    """The finite values logged under `key`, times `scale`."""
    points = [(line["step"], scale * line[key]) for line in lines if is_number(line.get(key))]
    return [step for step, _ in points], [value for _, value in points]


def loss_curve(lines: list[dict], log_every: int) -> Curve:
    """The mean losses over equally many steps each.

    A logged loss is the mean over the steps since the line before. At the end of an epoch these may be few, and their mean would jump: it
    is averaged with its neighbours until a point stands for `log_every` steps, or for as many as the longest logged mean does.
    """
    steps, values = curve(lines, "loss")
    counts = [max(step - before, 0) for before, step in zip([0, *steps], steps, strict=False)]
    wanted = min(log_every, max(counts, default=0))
    kept: list[tuple[int, float, int]] = []  # step, sum of the losses, and of how many steps
    total, count = 0.0, 0
    for step, value, steps_of_value in zip(steps, values, counts, strict=True):
        total, count = total + value * steps_of_value, count + steps_of_value
        if count >= wanted > 0:
            kept.append((step, total, count))
            total, count = 0.0, 0
    if count and kept:  # the rest at the end
        _, last_total, last_count = kept.pop()
        kept.append((steps[-1], last_total + total, last_count + count))
    return [step for step, _, _ in kept], [total / count for _, total, count in kept]


def blank_figure(height: float) -> Figure:
    """A transparent figure for panels. height: inches."""
    return Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained", facecolor="none")


def draw_panel(axes: Axes, title: str, curves: dict[str, Curve]) -> None:
    """Each curve in a colour of its own."""
    for index, (label, (steps, values)) in enumerate(curves.items()):
        # Without markers, few points are hard to see, and a single one is invisible.
        marker = "o" if len(steps) < 30 else None
        axes.plot(steps, values, color=_COLOURS[index % len(_COLOURS)], linewidth=1.8, marker=marker, markersize=3.5, label=label)
    axes.set_facecolor("none")
    axes.set_title(title, fontsize=11, color=_INK, loc="left")
    axes.set_xlabel("step", fontsize=9, color=_INK)
    axes.tick_params(labelsize=9, colors=_INK, length=2)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    axes.grid(color=_INK, linewidth=0.4, alpha=0.4)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_INK)


def draw_legend(axes: Axes) -> None:
    """The names of the curves."""
    axes.legend(frameon=False, fontsize=9, labelcolor=_INK, handlelength=2)


def _panels(lines: list[dict], log_every: int) -> dict[str, dict[str, Curve]]:
    """The curves of each panel by their labels: those of two points or more."""
    panels = {
        "loss": {"loss": loss_curve(lines, log_every)},
        "learning rate": {"lr": curve(lines, "lr")},
        "effective rank of the features": {"rank": curve(lines, _RANK)},
        _KNN_TITLE: {key.removeprefix(_KNN_PREFIX): curve(lines, key, 100) for key in _knn_keys(lines)},
    }
    drawn = {title: {label: found for label, found in curves.items() if len(found[0]) > 1} for title, curves in panels.items()}
    return {title: curves for title, curves in drawn.items() if curves}


def _knn_keys(lines: list[dict]) -> list[str]:
    """For each k, the key of metrics.jsonl that was logged most often."""
    logged = Counter(key for line in lines for key in line if key.startswith(_KNN_PREFIX))
    most: dict[str, str] = {}
    for key, count in logged.items():
        k = key.split()[1]
        if k not in most or count > logged[most[k]]:
            most[k] = key
    return list(most.values())


def _draw_reference(axes: Axes, run: Run) -> None:
    """The number of the recipe's reference, as a line."""
    reference = run.recipe.reference.get("knn_top1")
    if reference is not None:
        axes.axhline(100 * reference, color=_INK, linewidth=1, linestyle=":", label=f"reference, k={run.recipe.reference_k}")
