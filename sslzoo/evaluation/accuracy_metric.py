"""Accuracy as a metric of Hugging Face `evaluate`, defined here so that it needs no network."""

from typing import Any

import evaluate
from datasets import Features, Value

from sslzoo.errors import InputError


class TopAccuracy(evaluate.Metric):
    """The share of correct images: `compute(correct=[...], images=[...])` gives {"accuracy": share} over any number of parts.

    Works in memory and leaves no files. Raises `InputError` where there are no images at all.
    """

    def __init__(self) -> None:
        super().__init__(keep_in_memory=True)

    def _build_data_dir(self) -> str:
        return ""  # in memory; otherwise an empty folder would be left in the user's cache

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="The share of images whose class is among the first k.",
            citation="",
            inputs_description="correct: how many images of each part are correct. images: how many the part has.",
            features=Features({"correct": Value("int64"), "images": Value("int64")}),
        )

    def _compute(self, correct: list[int], images: list[int]) -> dict[str, Any]:
        if not sum(images):
            raise InputError("there are no images to measure on")
        return {"accuracy": sum(correct) / sum(images)}
