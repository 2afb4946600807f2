"""Squared entries of a cross-correlation over the batch, through the smaller of two matrices."""

from torch import Tensor

from .precision import full_precision


def off_diagonal_squares(first: Tensor, second: Tensor) -> Tensor:
    """Sum of the squares of first^T second, (d, d), without its diagonal: (..., n, d) twice give (...).

    The sum of all squares is also the sum over first first^T times second second^T, element by element: (n, n), which is smaller where
    there are fewer rows than columns.
    """
    count, width = first.shape[-2:]
    with full_precision(first.device):
        if count < width:
            products = first @ first.mT
            squares = products * (products if second is first else second @ second.mT)
        else:
            squares = (first.mT @ second).square()
    return squares.sum(dim=(-2, -1)) - (first * second).sum(dim=-2).square().sum(dim=-1)
