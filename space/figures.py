"""The Space's plots, readable on light and dark backgrounds, and the reading of logged curves."""

import json
import math
from collections.abc import Iterator
from itertools import accumulate

import plotly.graph_objects as go
from labels import Point, place_labels
from plotly.subplots import make_subplots
from table import Table, duration, heading

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")  # distinguishable with colour blindness
_DASHES = ("solid", "dash", "dot", "dashdot")
_MAX_POINTS, _MAX_CURVES = 600, 12
_KNN_PREFIX = "knn_top1 "  # a key of metrics.jsonl is "knn_top1 k=20 T=0.1"
_TICKS = (1, 3, 10, 30, 60, 120, 180, 300, 600, 1800, 3600, 10_800, 36_000, 108_000, 360_000, 1_080_000)  # seconds
_GREY, _LINE = "#7d8590", "rgba(128, 136, 146, 0.25)"

Curve = tuple[list[float], list[float]]  # steps and values


def read_curves(lines: Iterator[str]) -> dict[str, Curve]:
    """Loss and kNN accuracy (percent) from the lines of a metrics.jsonl. Lines and values that are not numbers are skipped."""
    curves: dict[str, Curve] = {}
    for line in lines:
        try:
            logged = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if not isinstance(logged, dict) or not _is_number(logged.get("step")):
            continue
        for key, logged_value in logged.items():
            if (key == "loss" or key.startswith(_KNN_PREFIX)) and len(key) < 60 and _is_number(logged_value) and len(curves) < _MAX_CURVES:
                steps, values = curves.setdefault(key.removeprefix(_KNN_PREFIX), ([], []))
                steps.append(logged["step"])
                values.append(logged_value if key == "loss" else 100 * logged_value)
    return {label: (_downsample(steps), _downsample(values)) for label, (steps, values) in curves.items()}


def loss_figure(curves: dict[str, dict[str, Curve]], methods: dict[str, str]) -> go.Figure:
    """Losses over the steps. curves: by model, then by label. methods: by model; losses of different methods get axes of their own."""
    with_loss = {name: labelled["loss"] for name, labelled in curves.items() if "loss" in labelled}
    if len({methods[name] for name in with_loss}) <= 1:
        figure = _figure("Loss", "step")
        for index, (name, curve) in enumerate(with_loss.items()):
            _add(figure, name, curve, COLOURS[index])
        return figure
    titles = [f"Loss of {name}" for name in with_loss]
    figure = _figure("", "step", make_subplots(rows=len(with_loss), cols=1, subplot_titles=titles, vertical_spacing=0.22))
    for index, (name, curve) in enumerate(with_loss.items()):
        _add(figure, name, curve, COLOURS[index], row=index + 1)
    figure.update_layout(showlegend=False, height=200 * len(with_loss))
    return figure


def accuracy_figure(curves: dict[str, dict[str, Curve]]) -> go.Figure:
    """kNN accuracy over the steps: every setting of a single model, or of several the one that all have, of most points."""
    figure = _figure("kNN top-1 while training, %", "step")
    settings = [[label for label in labelled if label != "loss"] for labelled in curves.values()]
    shared = [label for label in settings[0] if all(label in others for others in settings)] if settings else []
    if len(curves) == 1:
        warm = [label for label in shared if "T=0.1" in label]  # T = 0.07 is within a percent of it, one line over the other
        for index, label in enumerate(warm or shared):
            _add(figure, label, next(iter(curves.values()))[label], COLOURS[index % len(COLOURS)], _DASHES[index % len(_DASHES)])
    elif shared:
        # The epochs of runs in half precision are measured by a protocol of their own.
        setting = max(shared, key=lambda label: sum(len(labelled[label][0]) for labelled in curves.values()))
        figure.update_layout(title_text=f"kNN top-1 while training, % ({setting})")
        for index, (name, labelled) in enumerate(curves.items()):
            _add(figure, name, labelled[setting], COLOURS[index])
    return figure


def cost_figure(tables: list[Table]) -> go.Figure:
    """Accuracy against time, one plot for each data set; models that none at their cost or below surpasses are joined by a line."""
    titles = [f"{table.benchmark}: {heading(table.columns[0], table.columns)} top-1 in percent" for table in tables]
    grid = make_subplots(rows=len(tables), cols=1, subplot_titles=titles, vertical_spacing=0.3 / len(tables))
    figure = _figure("", "time on the hardware that the point names", grid)
    for number, table in enumerate(tables, 1):
        points = sorted(
            (
                Point(row.entry.name.partition("/")[2], row.entry.device_hours * 3600, row.values[0], row.entry.hardware)
                for row in table.rows if row.values[0] is not None and row.entry.seconds > 0
            ), key=lambda point: (point.seconds, -point.percent),
        )  # fmt: skip
        best = list(accumulate((point.percent for point in points), max))
        is_front = [not index or value > best[index - 1] for index, value in enumerate(best)]
        for colour, front, width in ((COLOURS[0], True, 320), (_GREY, False, 1100)):  # px: a phone shows only the front's labels
            group = [point for point, on_front in zip(points, is_front, strict=True) if on_front == front]
            figure.add_scatter(
                x=[point.seconds for point in group], y=[point.percent for point in group], row=number, col=1,
                mode="lines+markers+text" if front else "markers+text", line={"color": colour, "width": 1, "dash": "dot"},
                marker={"size": 9, "color": colour}, customdata=[point.hardware for point in group],
                hovertext=[f"{point.name}, {duration(point.seconds)}" for point in group],
                hovertemplate="<b>%{hovertext}</b><br>%{y:.2f} %<br>%{customdata}<extra></extra>", textfont={"size": 11},
                **place_labels(group, points, width),
            )  # fmt: skip
        ticks = [value for value in _TICKS if points and points[0].seconds / 2 <= value <= 2 * points[-1].seconds]
        figure.update_xaxes(type="log", tickvals=ticks, ticktext=[duration(value).replace(".0", "") for value in ticks], row=number, col=1)
    figure.update_layout(showlegend=False, hovermode="closest", height=380 * len(tables))
    return figure


def _add(figure: go.Figure, name: str, curve: Curve, colour: str, dash: str = "solid", row: int | None = None) -> None:
    steps, values = curve
    figure.add_scatter(
        x=steps, y=values, name=name, mode="lines+markers" if len(steps) < 30 else "lines",
        line={"color": colour, "width": 2, "dash": dash}, marker={"size": 5}, row=row, col=row and 1,
    )  # fmt: skip
    figure.update_layout(showlegend=len(figure.data) > 1)


def _figure(title: str, x_title: str, figure: go.Figure | None = None) -> go.Figure:
    """figure: with subplots, whose titles are the headings."""
    figure = figure or go.Figure()
    figure.update_layout(
        template="none", title={"text": title, "font": {"size": 14}, "x": 0.01, "xanchor": "left", "y": 0.97}, height=300,
        margin={"l": 44, "r": 12, "t": 40, "b": 44}, paper_bgcolor="rgba(0, 0, 0, 0)", plot_bgcolor="rgba(0, 0, 0, 0)",
        font={"color": _GREY, "size": 12, "family": "system-ui, sans-serif"},
        legend={"orientation": "h", "yanchor": "top", "y": -0.28, "x": 0},
        hovermode="x unified", hoverlabel={"font": {"color": "#1f2328"}, "bgcolor": "#ffffff"},
    )  # fmt: skip
    figure.update_annotations(font={"size": 14}, x=0, xanchor="left")
    figure.update_xaxes(gridcolor=_LINE, linecolor=_LINE, zeroline=False)
    figure.update_xaxes(title={"text": x_title, "font": {"size": 11}}, row=-1 if title == "" else None, col=1 if title == "" else None)
    figure.update_yaxes(gridcolor=_LINE, linecolor=_LINE, zeroline=False)
    return figure


def _downsample(values: list[float]) -> list[float]:
    return values[:: max(1, -(-len(values) // _MAX_POINTS))]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e15 and math.isfinite(value)
