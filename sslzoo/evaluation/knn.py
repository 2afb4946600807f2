"""The weighted nearest-neighbour classifier (Wu and others, 2018, arXiv:1805.01978, "InstDisc")."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sslzoo.errors import InputError


class KNNProtocol(NamedTuple):
    """k nearest by cosine; each votes for its class with exp(similarity / temperature)."""

    k: tuple[int, ...]
    temperature: tuple[float, ...]
    weighting: str  # in words, for the card


KNN_PROTOCOLS = {"knn-instdisc-v1": KNNProtocol((20, 200), (0.1, 0.07), "exp(cosine / temperature)")}


def nearest(queries: Tensor, bank: Tensor, k: int, chunk: int = 1024) -> tuple[Tensor, Tensor]:
    """Cosines float32 (n, k) and rows int64 (n, k) of each query's k nearest in the bank, nearest first; chunk: queries at a time."""
    queries, bank = F.normalize(queries.float(), dim=1), F.normalize(bank.float(), dim=1)
    parts = [(part @ bank.T).topk(k, dim=1) for part in queries.split(chunk)]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def knn_accuracy(
    bank: Tensor, bank_labels: Tensor, queries: Tensor, labels: Tensor, protocol: KNNProtocol
) -> dict[tuple[str, int, float], float]:
    """Shares of queries whose class is first ("top1") and among the first five ("top5"), by (metric, k, temperature).

    bank (m, d), queries (n, d): features, not normalised; labels int64. A k above m counts all m; "top5" is left out below six classes.
    Raises `InputError` for features that are not finite.
    """
    for name, rows in (("train", bank), ("test", queries)):
        if not bool(torch.isfinite(rows).all()):
            raise InputError(f"features of the {name} images are not finite: the encoder's weights are broken")
    classes = int(torch.maximum(bank_labels.max(), labels.max())) + 1
    similarity, rows = nearest(queries, bank, min(max(protocol.k), len(bank)))
    neighbours = bank_labels[rows]
    accuracy = {}
    for temperature in protocol.temperature:
        # Without the largest similarity in the exponent nothing changes but the scale of a query's votes.
        votes = ((similarity - similarity[:, :1]) / temperature).exp()
        for k in protocol.k:
            scores = votes.new_zeros(len(queries), classes).scatter_add_(1, neighbours[:, :k], votes[:, :k])
            ranked = scores.topk(min(5, classes), dim=1).indices == labels[:, None]
            accuracy["top1", k, temperature] = int(ranked[:, 0].sum()) / len(queries)
            if classes > 5:
                accuracy["top5", k, temperature] = int(ranked.any(dim=1).sum()) / len(queries)
    return accuracy
