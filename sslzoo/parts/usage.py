"""How evenly the prototypes are used."""

import math

import torch
from torch import Tensor


def usage_entropy(assignments: Tensor) -> Tensor:
    """Entropy of the mean of the assignments, (rows, prototypes), as a share of the largest: 0 for a single prototype, 1 for equal use."""
    mean = assignments.detach().float().mean(dim=0)
    return torch.special.entr(mean).sum() / math.log(len(mean))
