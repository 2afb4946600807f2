"""Draws curves.png: loss, learning rate, feature rank and kNN accuracy over the training steps."""

import math
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sslzoo.run import Run

from .pictures import CURVES, DPI, INK, WIDTH, save_picture
from .results_validation import checked_metrics
from .validation import is_number

_RANK, _KNN_TITLE = "feature_rank", "kNN top-1 in percent"
_KNN_PREFIX = "knn_top1 "  # a key of metrics.jsonl is "knn_top1 k=20 T=0.1"
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")  # distinguishable with colour blindness
_DASHES = ("-", "--", "-.", ":")
_PALE = "#bbbbbb"  # of axes and grid

Curve = tuple[list[int], list[float]]  # steps and values


def draw_curves(run: Run) -> Path:
    """Draws what metrics.jsonl logged; feature rank and kNN accuracy only if they were logged. Raises `InputError`."""
    lines = checked_metrics(run)
    knn_keys = dict.fromkeys(key for line in lines for key in line if key.startswith(_KNN_PREFIX))
    panels = {"loss": {"loss": curve(lines, "loss")}, "learning rate": {"lr": curve(lines, "lr")}}
    if any(_RANK in line for line in lines):
        panels["effective rank of the features"] = {"rank": curve(lines, _RANK)}
    if knn_keys:
        panels[_KNN_TITLE] = {key.removeprefix(_KNN_PREFIX): curve(lines, key, 100) for key in knn_keys}
    figure = Figure(figsize=(WIDTH, 2.9 * math.ceil(len(panels) / 2)), dpi=DPI, layout="constrained")
    for index, (title, curves) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(math.ceil(len(panels) / 2), 2, index)
        draw_panel(axes, title, curves)
        if title == _KNN_TITLE:
            reference = run.recipe.reference.get("knn_top1")
            if reference is not None:
                axes.axhline(100 * reference, color=INK, linewidth=1, linestyle=":", label="reference")
            axes.legend(frameon=False, fontsize=7, labelcolor=INK, handlelength=3)
        axes.set_xlim(0, 1.03 * max(line["step"] for line in lines))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return save_picture(figure, run.folder / CURVES)


def curve(lines: list[dict], key: str, scale: float = 1) -> Curve:
    """The finite values logged under `key`, times `scale`."""
    points = [(line["step"], scale * line[key]) for line in lines if is_number(line.get(key))]
    return [step for step, _ in points], [value for _, value in points]


def draw_panel(axes: Axes, title: str, curves: dict[str, Curve]) -> None:
    """Curves whose labels start alike, "k=20 T=0.1" and "k=20 T=0.07", often coincide: they share a colour and differ in dashes."""
    families = list(dict.fromkeys(label.split()[0] for label in curves))
    drawn: dict[str, int] = {}
    for label, (steps, values) in curves.items():
        family = label.split()[0]
        colour, dashes = _COLOURS[families.index(family) % len(_COLOURS)], _DASHES[drawn.get(family, 0) % len(_DASHES)]
        drawn[family] = drawn.get(family, 0) + 1
        # Without markers, few points are hard to see, and a single one is invisible.
        axes.plot(steps, values, dashes, color=colour, linewidth=1.4, marker="o" if len(steps) < 30 else None, markersize=3, label=label)
    axes.set_title(title, fontsize=9, color=INK, loc="left")
    axes.set_xlabel("step", fontsize=8, color=INK)
    axes.tick_params(labelsize=7, colors=INK, length=2)
    axes.grid(color=_PALE, linewidth=0.4, alpha=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_PALE)
