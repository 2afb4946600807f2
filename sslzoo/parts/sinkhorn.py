"""Assignments of images to prototypes that use every prototype equally (Sinkhorn and Knopp; SwAV, arXiv:2006.09882)."""

import torch
from torch import Tensor

from .gather import gather


@torch.no_grad()
def sinkhorn(scores: Tensor, temperature: float, iterations: int) -> Tensor:
    """Each row's shares in the prototypes, float32 (n, prototypes) with rows that sum to 1, without gradient.

    scores: (n, prototypes), this process's rows. exp(scores / temperature) is divided `iterations` times by each prototype's sum over
    the rows of all devices, and then by each row's sum.
    """
    # In logarithms, because exp(1 / 0.05) is more than halves can hold and a prototype far from all rows must not become 0 / 0.
    shares = scores.float() / temperature
    for _ in range(iterations):
        shares = shares - gather(shares.logsumexp(dim=0, keepdim=True)).logsumexp(dim=0, keepdim=True)
        shares = shares - shares.logsumexp(dim=1, keepdim=True)
    return shares.exp()
