"""Assignments of images to prototypes that use every prototype equally (Sinkhorn and Knopp; SwAV, arXiv:2006.09882)."""

import torch
from torch import Tensor

from .gather import gather


@torch.no_grad()
def sinkhorn(logits: Tensor, temperature: float, iterations: int) -> Tensor:
    """Each row's assignment to the prototypes, float32 (n, prototypes) with rows that sum to 1, without gradient.

    logits: (n, prototypes), this process's rows. exp(logits / temperature) is divided `iterations` times by each prototype's sum over
    the rows of all devices, and then by each row's sum.
    """
    # In logarithms: exp(1 / 0.05) overflows float16, and a prototype far from all rows would give 0 / 0.
    log_probs = logits.float() / temperature
    for _ in range(iterations):
        log_probs = log_probs - gather(log_probs.logsumexp(dim=0, keepdim=True)).logsumexp(dim=0, keepdim=True)
        log_probs = log_probs - log_probs.logsumexp(dim=1, keepdim=True)
    return log_probs.exp()
