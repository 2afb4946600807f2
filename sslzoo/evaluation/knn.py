"""The weighted nearest-neighbour classifier (Wu and others, 2018, arXiv:1805.01978, "InstDisc")."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from sslzoo.errors import InputError
from sslzoo.processes import all_or_none

from .features import extract
from .metrics import accuracy, top_counts
from .protocol import Data, Measured, Protocol, Session

_BANK = 64  # rows of the bank at a time, for each query at a time
_ALIGNED = 16  # float32 in a cache line: rows that begin with one are written faster
_VOTES = 4096  # queries whose votes for all classes are in memory at once


@dataclass(frozen=True)
class KNNProtocol(Protocol):
    """k nearest by cosine; each votes for its class with exp(similarity / temperature). All k and temperatures are of one search.

    A class without any vote is never among the first: of k neighbours of one class, the others' images are wrong in top-5, too.
    """

    k: tuple[int, ...]
    temperature: tuple[float, ...]
    weighting: str  # in words, for the card
    tolerance: float = 0.002
    precision: str = "fp32"

    def measure(self, encoder: PreTrainedModel, data: Data, session: Session) -> list[Measured]:
        """ "knn_top1" and, from six classes on, "knn_top5", of each k and temperature. Raises `InputError` for features not finite."""
        session.bar.reset(total=len(data.train) + len(data.test))
        bank, bank_labels = extract(encoder, data.train, data.preprocessing, done=session.bar.update)
        queries, labels = extract(encoder, data.test, data.preprocessing, done=session.bar.update)
        labels = data.classes.of_test.to(labels.device)[labels]
        with all_or_none():
            accuracies = knn_accuracy(bank, bank_labels, queries, labels, self, data.classes.count)
        return [
            Measured(f"knn_{metric}", {"k": k, "temperature": temperature}, value)
            for (metric, k, temperature), value in accuracies.items()
        ]


KNN_PROTOCOLS = {"knn-instdisc-v2": KNNProtocol((20, 200), (0.1, 0.07), "exp(cosine / temperature)")}


@torch.no_grad()
def nearest(queries: Tensor, bank: Tensor, k: int, chunk: int = 1024) -> tuple[Tensor, Tensor]:
    """Cosines float32 (n, k) and rows int64 (n, k) of each query's k nearest in the bank, nearest first; all where the bank has fewer.

    Exact, and in true float32 whatever torch is allowed in its matrix products. queries (n, d), bank (m, d): not normalised.
    chunk: queries at a time, against 64 times as many rows of the bank: no more cosines are in memory at once.
    """
    parts = F.normalize(queries.float(), dim=1).split(chunk)
    found = [(part.new_empty(len(part), 0), part.new_empty(len(part), 0, dtype=torch.int64)) for part in parts]
    first = 0
    with _true_float32():
        for rows in bank.split(_BANK * chunk):
            rows = F.normalize(rows.float(), dim=1)
            wanted = min(k, len(rows))
            groups = _ALIGNED * -(-len(rows) // (_ALIGNED * isqrt(len(rows) // wanted)))
            padded = rows.new_empty(len(parts[0]), -(-len(rows) // groups) * groups)
            padded[:, len(rows) :] = -torch.inf
            for index, part in enumerate(parts):
                cosines = padded[: len(part)]
                torch.mm(part, rows.T, out=cosines[:, : len(rows)])
                values, places = _largest(cosines, groups, wanted)
                # Of the rows before, and of these.
                values, places = (torch.cat(pair, dim=1) for pair in zip(found[index], (values, places + first), strict=True))
                values, order = values.topk(min(k, values.shape[1]), dim=1)
                found[index] = values, places.gather(1, order)
            first += len(rows)
    cosines, rows = (torch.cat(column) for column in zip(*found, strict=True))
    return cosines, rows


def _largest(values: Tensor, groups: int, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row, largest first, and their columns: `topk` in a fraction of its time. groups: a divisor of the columns.

    They all stand in the k groups of columns with the largest maxima, for with one that does not there would be k that are larger.
    """
    grouped = values.unflatten(1, (-1, groups))
    best = grouped.amax(dim=1).topk(k, dim=1, sorted=False).indices
    candidates = grouped.gather(2, best[:, None].expand(-1, grouped.shape[1], -1))
    largest, places = candidates.flatten(1).topk(k, dim=1)
    return largest, places // k * groups + best.gather(1, places % k)


@contextmanager
def _true_float32() -> Iterator[None]:
    """Without TF32 and bfloat16 in matrix products, which training allows; what was allowed is allowed again afterwards."""
    # Each backend by itself: the one setting over both cannot be read where a user has set one of them.
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


def knn_accuracy(
    bank: Tensor, bank_labels: Tensor, queries: Tensor, labels: Tensor, protocol: KNNProtocol, classes: int | None = None
) -> dict[tuple[str, int, float], float]:
    """Shares of queries whose class is first ("top1") and among the first five ("top5"), by (metric, k, temperature).

    bank (m, d), queries (n, d): features, not normalised; labels int64. A k above m counts all m; "top5" is left out below six classes.
    A class that no neighbour votes for is never a hit, however few the others are.
    classes: how many there are, None: as many as the labels tell. Raises `InputError` for features that are not finite.
    """
    for name, rows in (("train", bank), ("test", queries)):
        if not bool(torch.stack(rows.aminmax()).isfinite().all()):
            raise InputError(f"features of the {name} images are not finite: the encoder's weights are broken")
    classes = classes or int(torch.maximum(bank_labels.max(), labels.max())) + 1
    similarity, rows = nearest(queries, bank, max(protocol.k))
    neighbours = bank_labels[rows]
    accuracies = {}
    for temperature in protocol.temperature:
        # Without the largest similarity in the exponent nothing changes but the scale of a query's votes.
        votes = ((similarity - similarity[:, :1]) / temperature).exp()
        for k in protocol.k:
            counts, images = [], []
            for candidates, weights, true in zip(*(rows.split(_VOTES) for rows in (neighbours[:, :k], votes[:, :k], labels)), strict=True):
                # Below all votes, of which those from far away may round to zero.
                scores = weights.new_full((len(weights), classes), -1.0)
                scores.scatter_(1, candidates, 0.0).scatter_add_(1, candidates, weights)
                voted = (candidates == true[:, None]).any(dim=1)
                counts.append(top_counts(scores[voted], true[voted]))
                images.append(len(true))
            for name in counts[0]:
                accuracies[name, k, temperature] = accuracy([count[name] for count in counts], images)
    return accuracies
