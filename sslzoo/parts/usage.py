"""How evenly prototypes are used."""

import math

import torch
from torch import Tensor


def usage_entropy(assignments: Tensor) -> Tensor:
    """Entropy of the mean assignment (rows, prototypes) as a share of the largest: 0 when one takes all, 1 when all are used alike."""
    mean = assignments.detach().float().mean(dim=0)
    return torch.special.entr(mean).sum() / math.log(len(mean))
