"""Accuracy as a metric of Hugging Face `evaluate`, from counts; made here, so that it needs no network."""

from typing import Any

import evaluate
import torch
from datasets import Features, Value
from torch import Tensor

from sslzoo.errors import InputError

_FIRST = 5  # how many classes "top5" looks at


class TopAccuracy(evaluate.Metric):
    """The share of images that are right: `compute(correct=[...], images=[...])` is {"accuracy": share}, of any number of parts.

    Works in memory and leaves no files. Raises `InputError` where there are no images at all.
    """

    def __init__(self) -> None:
        super().__init__(keep_in_memory=True)

    def _build_data_dir(self) -> str:
        return ""  # in memory; else an empty folder would be left in the user's cache

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="The share of images whose class is among the first k.",
            citation="",
            inputs_description="correct: how many images of each part are right. images: how many the part has.",
            features=Features({"correct": Value("int64"), "images": Value("int64")}),
        )

    def _compute(self, correct: list[int], images: list[int]) -> dict[str, Any]:
        if not sum(images):
            raise InputError("there are no images to measure on")
        return {"accuracy": sum(correct) / sum(images)}


def top_counts(scores: Tensor, labels: Tensor) -> dict[str, int]:
    """How many images have their class first ("top1") and among the first five ("top5", left out below six classes).

    Of classes with equal scores the one with the lower label comes first, on every device.

    scores (n, classes), labels int64 (n,). Raises `InputError` for scores that are not finite.
    """
    own = scores.gather(1, labels[:, None])
    before = torch.arange(scores.shape[1], device=labels.device) < labels[:, None]
    rank = ((scores > own) | ((scores == own) & before)).sum(dim=1)
    # One wait for the device.
    broken, top1, top5 = torch.stack([(~scores.isfinite()).sum(), (rank < 1).sum(), (rank < _FIRST).sum()]).tolist()
    if broken:
        raise InputError("the scores of the test images are not finite: the encoder's or the classifier's weights are broken")
    return {"top1": top1, "top5": top5} if scores.shape[1] > _FIRST else {"top1": top1}
