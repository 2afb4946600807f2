"""Which part of each image a crop shows."""

import math

import torch
from torch import Tensor

TRIES = 10


def draw_boxes(
    sizes: Tensor, scale: tuple[float, float], ratio: tuple[float, float], padding: float, areas: Tensor, ratios: Tensor, corners: Tensor
) -> Tensor:
    """Boxes int64 (n, 4): top, left, height, width in px. Negative or beyond the image only where `padding` adds a border.

    The first of TRIES boxes of a random area and shape that fits into the (padded) image, at a random place; where none fits, the
    largest centred box of an allowed shape.

    sizes: int64 (n, 2), heights and widths of the images.
    scale: range of the box's share of the image's area, drawn uniformly. ratio: range of width / height, drawn log-uniformly.
    padding: the border on each side as a share of that side of the image.
    areas, ratios: random numbers in [0, 1), (n, TRIES). corners: the same, (n, 2).
    """
    borders = (sizes * padding).round().long()
    height, width = (sizes + 2 * borders).split(1, dim=1)
    area = sizes.prod(dim=1, keepdim=True) * (scale[0] + areas * (scale[1] - scale[0]))
    shape = torch.exp(math.log(ratio[0]) + ratios * (math.log(ratio[1]) - math.log(ratio[0])))
    heights, widths = (area / shape).sqrt().round().long(), (area * shape).sqrt().round().long()
    fits = (heights > 0) & (heights <= height) & (widths > 0) & (widths <= width)
    first = fits.int().argmax(dim=1, keepdim=True)

    whole = width / height
    # The cut is rounded down to at least one px in an image that is one px wide.
    largest_height = torch.where(whole < ratio[0], (width / ratio[0]).round().long(), height)
    largest_width = torch.where(whole > ratio[1], (height * ratio[1]).round().long().clamp(min=1), width)
    found = fits.any(dim=1, keepdim=True)
    box = torch.cat(
        [
            torch.where(found, heights.gather(1, first), torch.minimum(largest_height, height).clamp(min=1)),
            torch.where(found, widths.gather(1, first), torch.minimum(largest_width, width)),
        ],
        dim=1,
    )
    room = sizes + 2 * borders - box
    # In float32 a number just below 1 times the number of places may round up to that number.
    drawn = torch.minimum((corners * (room + 1)).long(), room)
    return torch.cat([torch.where(found, drawn, room // 2) - borders, box], dim=1)
