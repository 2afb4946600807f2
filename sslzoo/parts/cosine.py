"""Negative cosine similarity to a target without gradient (BYOL, arXiv:2006.07733; SimSiam, arXiv:2011.10566)."""

import torch.nn.functional as F
from torch import Tensor


def negative_cosine(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean over rows of minus the cosine of prediction (n, d) and target (n, d), with a stop-gradient on the target; in float32."""
    return -(F.normalize(prediction.float(), dim=1) * F.normalize(target.detach().float(), dim=1)).sum(dim=1).mean()
