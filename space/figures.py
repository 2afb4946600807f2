"""The Space's plots, readable on light and dark ground."""

import json
import math
from collections.abc import Iterator

import plotly.graph_objects as graph

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")  # told apart by colour-blind eyes too
_DASHES = ("solid", "dash", "dot", "dashdot")
_MOST_POINTS = 600  # of a curve
_ACCURACY = "knn_top1 "  # a key of metrics.jsonl is "knn_top1 k=20 T=0.1"
_GREY, _LINE = "#7d8590", "rgba(128, 136, 146, 0.25)"

Curve = tuple[list[float], list[float]]  # steps and values


def read_curves(lines: Iterator[str]) -> dict[str, Curve]:
    """What a metrics.jsonl logged under "loss" and as kNN accuracy, in percent. Whatever is no number is passed over."""
    curves: dict[str, Curve] = {}
    for line in lines:
        try:
            logged = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if not isinstance(logged, dict) or not _is_number(logged.get("step")):
            continue
        for key, logged_value in logged.items():
            if (key == "loss" or key.startswith(_ACCURACY)) and len(key) < 60 and _is_number(logged_value) and len(curves) < 12:
                steps, values = curves.setdefault(key.removeprefix(_ACCURACY), ([], []))
                steps.append(logged["step"])
                values.append(logged_value if key == "loss" else 100 * logged_value)
    return {label: (_thinned(steps), _thinned(values)) for label, (steps, values) in curves.items()}


def loss_figure(named: dict[str, dict[str, Curve]]) -> graph.Figure:
    """Losses over the steps; named: curves by model."""
    figure = _figure("Loss", "step")
    for place, (name, curves) in enumerate(named.items()):
        if "loss" in curves:
            _add(figure, name, curves["loss"], COLOURS[place])
    return figure


def accuracy_figure(named: dict[str, dict[str, Curve]]) -> graph.Figure:
    """kNN accuracy over the steps. Of one model every setting; of several the setting that all of them have."""
    figure = _figure("kNN top-1 while training, %", "step")
    settings = [[label for label in curves if label != "loss"] for curves in named.values()]
    shared = [label for label in settings[0] if all(label in others for others in settings)] if settings else []
    if len(named) == 1:
        for place, label in enumerate(shared):
            _add(figure, label, next(iter(named.values()))[label], COLOURS[place % len(COLOURS)], _DASHES[place % len(_DASHES)])
    elif shared:
        figure.update_layout(title_text=f"kNN top-1 while training, % ({shared[0]})")
        for place, (name, curves) in enumerate(named.items()):
            _add(figure, name, curves[shared[0]], COLOURS[place])
    return figure


def cost_figure(points: list[tuple[str, str, float, float, str]]) -> graph.Figure:
    """Accuracy against device-hours; points: (name, data set, hours, percent, hardware)."""
    figure = _figure("kNN top-1, %, against device-hours", "device-hours, of the device that the point names")
    for place, dataset in enumerate(dict.fromkeys(dataset for _, dataset, *_ in points)):
        own = [point for point in points if point[1] == dataset and point[2] > 0]
        figure.add_scatter(
            x=[hours for _, _, hours, _, _ in own], y=[percent for _, _, _, percent, _ in own], name=dataset, mode="markers",
            text=[name for name, *_ in own], customdata=[hardware for *_, hardware in own],
            marker={"size": 10, "color": COLOURS[place % len(COLOURS)], "line": {"width": 1, "color": "rgba(255, 255, 255, 0.7)"}},
            hovertemplate="<b>%{text}</b><br>%{y:.2f} % after %{x:.3g} h<br>%{customdata}<extra></extra>",
        )  # fmt: skip
    hours = [point[2] for point in points if point[2] > 0]
    figure.update_xaxes(type="log", dtick=1 if hours and max(hours) > 30 * min(hours) else None)
    figure.update_layout(showlegend=True, hovermode="closest")
    return figure


def _add(figure: graph.Figure, name: str, curve: Curve, colour: str, dash: str = "solid") -> None:
    steps, values = curve
    mode = "lines+markers" if len(steps) < 30 else "lines"
    figure.add_scatter(x=steps, y=values, name=name, mode=mode, line={"color": colour, "width": 2, "dash": dash}, marker={"size": 5})
    figure.update_layout(showlegend=len(figure.data) > 1)


def _figure(title: str, below: str) -> graph.Figure:
    figure = graph.Figure()
    figure.update_layout(
        template="none", title={"text": title, "font": {"size": 14}, "x": 0.01, "xanchor": "left", "y": 0.97}, height=300,
        margin={"l": 44, "r": 12, "t": 40, "b": 44}, paper_bgcolor="rgba(0, 0, 0, 0)", plot_bgcolor="rgba(0, 0, 0, 0)",
        font={"color": _GREY, "size": 12, "family": "system-ui, sans-serif"},
        legend={"orientation": "h", "yanchor": "top", "y": -0.28, "x": 0},
        hovermode="x unified", hoverlabel={"font": {"color": "#1f2328"}, "bgcolor": "#ffffff"},
    )  # fmt: skip
    figure.update_xaxes(title={"text": below, "font": {"size": 11}}, gridcolor=_LINE, linecolor=_LINE, zeroline=False)
    figure.update_yaxes(gridcolor=_LINE, linecolor=_LINE, zeroline=False)
    return figure


def _thinned(values: list[float]) -> list[float]:
    return values[:: max(1, -(-len(values) // _MOST_POINTS))]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e15 and math.isfinite(value)
