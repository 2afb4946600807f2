"""Places the names of points in a plot so that none covers another name or a point; a name that fits nowhere is left to the pointer."""

import math
from typing import NamedTuple

_LETTER, _LINE, _RADIUS = 6.2, 14, 7  # px
_HEIGHT, _MARGIN = 300, 60  # px of a plot, and of its width that is not plotted on


class Point(NamedTuple):
    """A model in a plot of accuracy against time."""

    name: str
    seconds: float
    percent: float
    hardware: str


def place_labels(group: list[Point], points: list[Point], width: int) -> dict[str, list[str]]:
    """The labels of `group` and where each stands, as plotly's `text` and `textposition`.

    points: all of the plot, which no label covers. width: px of the plot, as narrow as it may be shown.
    """
    left, right = (math.log(pick(point.seconds for point in points)) for pick in (min, max))
    low, high = (pick(point.percent for point in points) for pick in (min, max))
    x_scale, y_scale = (width - _MARGIN) / (right - left or 1), _HEIGHT / (high - low or 1)

    def position(point: Point) -> tuple[float, float]:
        return (math.log(point.seconds) - left) * x_scale, (high - point.percent) * y_scale

    taken = [(x - _RADIUS, y - _RADIUS, x + _RADIUS, y + _RADIUS) for x, y in map(position, points)]
    texts, places = [], []
    for point in group:
        x, y = position(point)
        text, place = "", "top center"
        length = _LETTER * len(point.name)
        boxes = {
            "middle right": (x + 8, y - _LINE / 2, x + 8 + length, y + _LINE / 2),
            "middle left": (x - 8 - length, y - _LINE / 2, x - 8, y + _LINE / 2),
            "top center": (x - length / 2, y - 8 - _LINE, x + length / 2, y - 8),
            "bottom center": (x - length / 2, y + 8, x + length / 2, y + 8 + _LINE),
        }
        for name, box in boxes.items():
            inside = box[0] >= -20 and box[2] <= width - _MARGIN + 20
            if inside and not any(_overlap(box, other) for other in taken):
                text, place = point.name, name
                taken.append(box)
                break
        texts.append(text)
        places.append(place)
    return {"text": texts, "textposition": places}


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
