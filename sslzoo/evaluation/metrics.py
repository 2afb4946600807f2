"""Top-1 and top-5: how many images are correct, and the accuracy over all of them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sslzoo.errors import InputError

_TOP5 = 5


def accuracy(correct: Sequence[int], images: Sequence[int]) -> float:
    """The share of correct images, from the counts of any number of parts. Raises `InputError` where there are no images at all."""
    from .accuracy_metric import TopAccuracy  # here, as `evaluate` takes seconds to import

    return TopAccuracy().compute(correct=correct, images=images)["accuracy"]


def top_counts(scores: Tensor, labels: Tensor) -> dict[str, int]:
    """How many images are classified correctly by the best score ("top1") and by the best five ("top5", left out below six classes).

    Of classes with equal scores the one with the lower label ranks first, on every device.

    scores (n, classes), labels int64 (n,). Raises `InputError` for scores that are not finite.
    """
    true_score = scores.gather(1, labels[:, None])
    lower_label = torch.arange(scores.shape[1], device=labels.device) < labels[:, None]
    rank = ((scores > true_score) | ((scores == true_score) & lower_label)).sum(dim=1)
    # One device sync for all counts.
    not_finite, top1, top5 = torch.stack([(~scores.isfinite()).sum(), (rank < 1).sum(), (rank < _TOP5).sum()]).tolist()
    if not_finite:
        raise InputError("the scores of the test images are not finite: the encoder's or the classifier's weights are broken")
    return {"top1": top1, "top5": top5} if scores.shape[1] > _TOP5 else {"top1": top1}
