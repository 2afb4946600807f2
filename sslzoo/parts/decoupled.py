"""Positives apart from negatives: what DCL makes of SimCLR's logits (arXiv:2110.06848, equation 6)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .gather import gather, rank
from .precision import full_precision


def decoupled(first: Tensor, second: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The cosine of each row with the other view of its image, and the logarithm of what it sums over other images: each (2n,).

    The latter is the log-sum-exp of the cosines, divided by the temperature, with all rows of other images, on all devices: the
    positive is not among them.

    first, second: (n, d), not necessarily normalised, row i of both from image i.
    """
    count = len(first)
    own = F.normalize(torch.cat((first, second)).float(), dim=1)
    every = gather(own)
    positives = (own[:count] * own[count:]).sum(dim=1)
    with full_precision(own.device):
        logits = own @ every.T / temperature
    rows = torch.arange(len(every), device=own.device)
    images = rows // (2 * count) * count + rows % count
    same = images == images.narrow(0, rank() * 2 * count, 2 * count)[:, None]
    return positives.repeat(2), logits.masked_fill(same, float("-inf")).logsumexp(dim=1)
