"""Swapped prediction: a view predicts the assignments of the other views (SwAV, arXiv:2006.09882; DINO, arXiv:2104.14294)."""

from collections.abc import Sequence

import torch
from torch import Tensor


def swapped_cross_entropy(target_probs: Sequence[Tensor], log_probs: Sequence[Tensor]) -> Tensor:
    """The mean cross entropy over the images and over all pairs of a target and the prediction from another view.

    target_probs: (n, prototypes) for each global view. log_probs: the same for each view, the global views first.
    """
    # Over all pairs: the product of the sums, minus the pairs of a view with itself.
    all_pairs = torch.stack(list(target_probs)).sum(dim=0) * torch.stack(list(log_probs)).sum(dim=0)
    same_view = sum(probs * predicted for probs, predicted in zip(target_probs, log_probs, strict=False))
    pairs = len(target_probs) * (len(log_probs) - 1)
    return -(all_pairs - same_view).sum(dim=1).mean() / pairs
