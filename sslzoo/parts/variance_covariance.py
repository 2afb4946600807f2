"""The three terms of VICReg (arXiv:2105.04906, equations 1 to 5)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .gather import gather
from .gram import off_diagonal_squares


def vicreg_terms(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Invariance, variance and covariance terms: the mean squared distance of the pairs, how far standard deviations are below 1, and the
    squared covariances off the diagonal; the latter two are averaged over both views.

    first, second: (n, d), or (n, k, d) for k pairs of each image; standard deviations and covariances are over all images on all
    devices, for each of the k by itself.
    """
    first, second = first.float(), second.float()
    variances, covariances = zip(_variance_covariance(first), _variance_covariance(second), strict=True)
    return F.mse_loss(first, second), sum(variances) / 2, sum(covariances) / 2


def _variance_covariance(rows: Tensor) -> tuple[Tensor, Tensor]:
    rows = gather(rows).movedim(0, -2)
    count, width = rows.shape[-2:]
    rows = (rows - rows.mean(dim=-2, keepdim=True)) / (count - 1) ** 0.5  # so that products over the batch are covariances
    deviations = (rows.square().sum(dim=-2) + 1e-4).sqrt()
    return torch.relu(1 - deviations).mean(), (off_diagonal_squares(rows, rows) / width).mean()
