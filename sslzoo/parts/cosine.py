"""Negative cosine towards a target that gets no gradient (BYOL, arXiv:2006.07733; SimSiam, arXiv:2011.10566)."""

import torch.nn.functional as F
from torch import Tensor


def negative_cosine(guess: Tensor, target: Tensor) -> Tensor:
    """Mean over rows of minus the cosine of guess (n, d) and target (n, d), with the stop-gradient on the target; in float32."""
    return -(F.normalize(guess.float(), dim=1) * F.normalize(target.detach().float(), dim=1)).sum(dim=1).mean()
