"""The Space's plots, readable on light and dark backgrounds, and the reading of logged curves."""

import json
import math
from collections.abc import Iterator

import plotly.graph_objects as go

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")  # distinguishable with colour blindness
_DASHES = ("solid", "dash", "dot", "dashdot")
_MAX_POINTS, _MAX_CURVES = 600, 12
_KNN_PREFIX = "knn_top1 "  # a key of metrics.jsonl is "knn_top1 k=20 T=0.1"
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


def loss_figure(curves: dict[str, dict[str, Curve]]) -> go.Figure:
    """Losses over the steps. curves: by model, then by label."""
    figure = _figure("Loss", "step")
    for index, (name, labelled) in enumerate(curves.items()):
        if "loss" in labelled:
            _add(figure, name, labelled["loss"], COLOURS[index])
    return figure


def accuracy_figure(curves: dict[str, dict[str, Curve]]) -> go.Figure:
    """kNN accuracy over the steps: every setting of a single model, or of several the one that all have, of most points."""
    figure = _figure("kNN top-1 while training, %", "step")
    settings = [[label for label in labelled if label != "loss"] for labelled in curves.values()]
    shared = [label for label in settings[0] if all(label in others for others in settings)] if settings else []
    if len(curves) == 1:
        for index, label in enumerate(shared):
            _add(figure, label, next(iter(curves.values()))[label], COLOURS[index % len(COLOURS)], _DASHES[index % len(_DASHES)])
    elif shared:
        # The epochs of runs in half precision are measured by a protocol of their own.
        setting = max(shared, key=lambda label: sum(len(labelled[label][0]) for labelled in curves.values()))
        figure.update_layout(title_text=f"kNN top-1 while training, % ({setting})")
        for index, (name, labelled) in enumerate(curves.items()):
            _add(figure, name, labelled[setting], COLOURS[index])
    return figure


def cost_figure(points: list[tuple[str, str, float, float, str]]) -> go.Figure:
    """Accuracy against device-hours; points: (name, data set, hours, percent, hardware)."""
    figure = _figure("kNN top-1, %, against device-hours", "device-hours, of the device that the point names")
    for index, dataset in enumerate(dict.fromkeys(dataset for _, dataset, *_ in points)):
        group = [point for point in points if point[1] == dataset and point[2] > 0]
        figure.add_scatter(
            x=[hours for _, _, hours, _, _ in group], y=[percent for _, _, _, percent, _ in group], name=dataset, mode="markers",
            text=[name for name, *_ in group], customdata=[hardware for *_, hardware in group],
            marker={"size": 10, "color": COLOURS[index % len(COLOURS)], "line": {"width": 1, "color": "rgba(255, 255, 255, 0.7)"}},
            hovertemplate="<b>%{text}</b><br>%{y:.2f} % after %{x:.3g} h<br>%{customdata}<extra></extra>",
        )  # fmt: skip
    hours = [point[2] for point in points if point[2] > 0]
    figure.update_xaxes(type="log", dtick=1 if hours and max(hours) > 30 * min(hours) else None)
    figure.update_layout(showlegend=True, hovermode="closest")
    return figure


def _add(figure: go.Figure, name: str, curve: Curve, colour: str, dash: str = "solid") -> None:
    steps, values = curve
    mode = "lines+markers" if len(steps) < 30 else "lines"
    figure.add_scatter(x=steps, y=values, name=name, mode=mode, line={"color": colour, "width": 2, "dash": dash}, marker={"size": 5})
    figure.update_layout(showlegend=len(figure.data) > 1)


def _figure(title: str, x_title: str) -> go.Figure:
    figure = go.Figure()
    figure.update_layout(
        template="none", title={"text": title, "font": {"size": 14}, "x": 0.01, "xanchor": "left", "y": 0.97}, height=300,
        margin={"l": 44, "r": 12, "t": 40, "b": 44}, paper_bgcolor="rgba(0, 0, 0, 0)", plot_bgcolor="rgba(0, 0, 0, 0)",
        font={"color": _GREY, "size": 12, "family": "system-ui, sans-serif"},
        legend={"orientation": "h", "yanchor": "top", "y": -0.28, "x": 0},
        hovermode="x unified", hoverlabel={"font": {"color": "#1f2328"}, "bgcolor": "#ffffff"},
    )  # fmt: skip
    figure.update_xaxes(title={"text": x_title, "font": {"size": 11}}, gridcolor=_LINE, linecolor=_LINE, zeroline=False)
    figure.update_yaxes(gridcolor=_LINE, linecolor=_LINE, zeroline=False)
    return figure


def _downsample(values: list[float]) -> list[float]:
    return values[:: max(1, -(-len(values) // _MAX_POINTS))]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e15 and math.isfinite(value)
