"""The normalised temperature-scaled cross entropy (SimCLR, arXiv:2002.05709, equation 1)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .gather import gather, rank
from .precision import full_precision


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Mean over the 2n rows of both views: each row finds the other view of its image among all other rows of all devices.

    first, second: (n, d), not necessarily normalised, row i of both from image i.
    """
    count = len(first)
    own = F.normalize(torch.cat((first, second)).float(), dim=1)
    every = gather(own)
    rows = torch.arange(2 * count, device=own.device)
    offset = rank() * 2 * count
    with full_precision(own.device):
        logits = own @ every.T / temperature
    itself = torch.arange(len(every), device=own.device) == (rows + offset)[:, None]
    return F.cross_entropy(logits.masked_fill(itself, float("-inf")), (rows + count) % (2 * count) + offset)
