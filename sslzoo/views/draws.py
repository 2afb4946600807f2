"""What is drawn for each view of each image: its box, its flips and how much its colours change."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .boxes import TRIES, draw_boxes
from .color import JITTER
from .random import uniform
from .view import View

# How many random numbers each part of a view takes; new ones go last, so that the others keep theirs.
_NUMBERS = {
    "areas": TRIES, "ratios": TRIES, "corners": 2, "flips": 2, "jitter": 1, "amounts": len(JITTER), "order": len(JITTER),
    "grayscale": 1, "blur": 1, "sigma": 1, "solarize": 1,
}  # fmt: skip
_COLUMNS = sum(_NUMBERS.values())
_UNCHANGED = (1.0, 1.0, 1.0, 0.0)  # amounts of the jitter's operations that change nothing: three factors, and turns of the hue


class Draws(NamedTuple):
    """Of n images and their views; what a view does not do is drawn as what changes nothing."""

    boxes: Tensor  # int64 (n, views, 4): top, left, height, width in px
    mirrored: Tensor  # bool (n, views, 2): flipped vertically, horizontally
    amounts: Tensor  # float32 (n, views, 4): for each of JITTER a factor, for the hue turns
    order: Tensor  # float32 (n, views, 4): the jitter's operations come in the order of these numbers
    grayscale: Tensor  # bool (n, views, 1)
    sigmas: Tensor  # float32 (n, views, 1): of the blur in px, 0 for none
    solarize: Tensor  # bool (n, views, 1)

    def split(self, counts: list[int]) -> list["Draws"]:
        """Those of the first counts[0] views, of the next counts[1] and so on."""
        if len(counts) == 1:
            return [self]
        return [Draws(*parts) for parts in zip(*(drawn.split(counts, dim=1) for drawn in self), strict=True)]

    def rows(self, rows: slice) -> "Draws":
        """Those of some images."""
        return Draws(*(drawn[rows] for drawn in self))


def tabulate(views: Sequence[View]) -> Tensor:
    """What `draw` needs to know of the views: float32 (views, columns)."""
    return torch.tensor([_row(view) for view in views])


def _row(view: View) -> list[float]:
    """For each random number the start of its range, then the range's length, then the probability that it stands for; then the rest."""
    strengths = [getattr(view, name) for name in JITTER]
    amounts = [(max(0.0, 1 - strength), 1 + strength) for strength in strengths[:-1]] + [(-strengths[-1], strengths[-1])]
    ranges = {
        "areas": [view.scale] * TRIES, "ratios": [(math.log(view.ratio[0]), math.log(view.ratio[1]))] * TRIES, "amounts": amounts,
        "sigma": [view.blur_sigma],
    }  # fmt: skip
    probabilities = {
        "flips": [view.vertical_flip, view.horizontal_flip], "jitter": [view.jitter], "grayscale": [view.grayscale],
        "blur": [view.blur], "solarize": [view.solarize],
    }  # fmt: skip
    limits = [limit for name, count in _NUMBERS.items() for limit in ranges.get(name, [(0.0, 1.0)] * count)]
    chances = [chance for name, count in _NUMBERS.items() for chance in probabilities.get(name, [0.0] * count)]
    return [*(low for low, _ in limits), *(high - low for low, high in limits), *chances, *_UNCHANGED, *view.ratio, view.padding]


def draw(table: Tensor, words: Tensor, sizes: Tensor, samples: Tensor, padded: bool) -> Draws:
    """table: as `tabulate` gives it, on the samples' device. words: `hash_words` of each view, (views, 3). sizes: int64 (n, 2).

    samples: int64 (n,). padded: whether any view has a border.
    """
    low, length, probability, unchanged, ratio, padding = table.split([_COLUMNS, _COLUMNS, _COLUMNS, len(JITTER), 2, 1], dim=1)
    numbers = uniform(samples, _COLUMNS, words)
    drawn, chosen = (
        dict(zip(_NUMBERS, columns.split(list(_NUMBERS.values()), dim=2), strict=True))
        for columns in (low + numbers * length, numbers < probability)
    )
    boxes = draw_boxes(sizes.unsqueeze(1), drawn["areas"], drawn["ratios"], drawn["corners"], ratio, padding if padded else None)
    amounts = torch.where(chosen["jitter"], drawn["amounts"], unchanged)
    sigmas = drawn["sigma"] * chosen["blur"]
    return Draws(boxes, chosen["flips"], amounts, drawn["order"], chosen["grayscale"], sigmas, chosen["solarize"])
