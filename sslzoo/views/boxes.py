"""Which part of each image a crop shows."""

import torch
from torch import Tensor

TRIES = 10


def draw_boxes(sizes: Tensor, areas: Tensor, log_ratios: Tensor, corners: Tensor, ratio: Tensor, padding: Tensor | None = None) -> Tensor:
    """Boxes int64 (..., 4): top, left, height, width in px. Negative or beyond the image only where `padding` adds a border.

    The first of the tries that fits into the (padded) image, at a random place; where none fits, the largest centred box of an allowed
    shape. Each tensor's first dimensions broadcast with those of the others.

    sizes: int64 (..., 2), heights and widths of the images.
    areas: (..., TRIES), drawn from the range of the box's share of the image's area. log_ratios: (..., TRIES), of width / height.
    corners: (..., 2), random numbers in [0, 1). ratio: (..., 2), smallest and largest width / height.
    padding: (..., 1), the border on each side as a share of that side of the image.
    """
    sizes = sizes.unsqueeze(-1)  # (..., 2, 1), as all that follows has the two axes last but one
    borders = 0 if padding is None else (sizes * padding.unsqueeze(-1)).round().long()
    padded = sizes if padding is None else sizes + 2 * borders
    area, shape = (sizes.prod(dim=-2) * areas), log_ratios.exp()
    tries = torch.stack([area / shape, area * shape], dim=-2).sqrt().round().long()
    found, first = ((tries > 0) & (tries <= padded)).all(dim=-2, keepdim=True).max(dim=-1, keepdim=True)
    fitting = tries.gather(-1, first.expand(*tries.shape[:-1], 1))

    # Where a side is narrow, the box's other side would be rounded to 0 px.
    height, width = padded.split(1, dim=-2)
    smallest, largest = ratio.unsqueeze(-1).split(1, dim=-2)
    central = torch.cat([width / smallest, height * largest], dim=-2).round().long()
    box = torch.where(found, fitting, torch.minimum(central, padded).clamp(min=1))
    room = padded - box
    # In float32 a number just below 1 times the number of places may round up to that number.
    drawn = torch.minimum((corners.unsqueeze(-1) * (room + 1)).long(), room)
    start = torch.where(found, drawn, room // 2)
    return torch.cat([start if padding is None else start - borders, box], dim=-2).squeeze(-1)
