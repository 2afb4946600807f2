"""Fixed two-dimensional sine-cosine positions (MAE, arXiv:2111.06377, after MoCo v3)."""

import torch
from torch import Tensor


def sincos_positions(width: int, side: int) -> Tensor:
    """(1, 1 + side * side, width): zeros for the class token, then the grid row by row.

    The first half of the channels encodes the column, the second the row; in each half all sines come before all cosines, at the
    frequencies 10000^(-4 i / width). width: a multiple of 4.
    """
    frequencies = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies
    one_axis = torch.cat((angles.sin(), angles.cos()), dim=1)
    columns = one_axis[None].expand(side, -1, -1)
    rows = one_axis[:, None].expand(-1, side, -1)
    grid = torch.cat((columns, rows), dim=-1).reshape(1, side * side, width)
    return torch.cat((torch.zeros(1, 1, width, dtype=grid.dtype), grid), dim=1).float()
