"""From an encoder and two splits to numbers that say how they were measured."""

from collections.abc import Callable
from typing import Any

from transformers import PreTrainedModel

from sslzoo.data import ImageSet
from sslzoo.errors import InputError, unknown

from .features import Preprocessing, extract
from .knn import KNN_PROTOCOLS, knn_accuracy


def measure(
    encoder: PreTrainedModel, train: ImageSet, test: ImageSet, preprocessing: Preprocessing, protocol: str,
    done: Callable[[int], None] = lambda count: None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Every number of a protocol: {"protocol", "dataset", "split", "metric", "arguments", "value", "data"}; values are fractions.

    "data" tells what was measured on: fingerprints, counts and preprocessing. done: told how many images are embedded.
    Raises `InputError`.
    """
    if protocol not in KNN_PROTOCOLS:
        raise unknown("protocol", protocol, KNN_PROTOCOLS)
    for images in (train, test):
        if images.labels is None:
            raise InputError(f"{images.source} ({images.split}) has no labels, so nothing can be measured on it")
    bank, bank_labels = extract(encoder, train, preprocessing, done=done)
    queries, labels = extract(encoder, test, preprocessing, done=done)
    data = {
        "train_fingerprint": train.fingerprint, "test_fingerprint": test.fingerprint, "train_split": train.split,
        "train_images": len(bank), "test_images": len(queries), "skipped": len(train.skipped) + len(test.skipped),
        "resize": preprocessing.resize, "crop": preprocessing.crop, "interpolation": preprocessing.interpolation,
    }  # fmt: skip
    accuracy = knn_accuracy(bank, bank_labels, queries, labels, KNN_PROTOCOLS[protocol])
    return [
        {
            "protocol": protocol, "dataset": test.source, "split": test.split, "metric": f"knn_{metric}",
            "arguments": {"k": k, "temperature": temperature}, "value": value, "data": data,
        }
        for (metric, k, temperature), value in accuracy.items()
    ]  # fmt: skip
