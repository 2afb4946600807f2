"""The weighted kNN classifier of InstDisc (Wu and others, 2018, arXiv:1805.01978)."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from sslzoo.errors import InputError
from sslzoo.processes import all_or_none

from .evaluation_data import Data
from .features import extract
from .metrics import accuracy, top_counts
from .protocol import Measured, Protocol, Session

_BANK_ROWS = 64  # rows of the bank per query that are searched at a time
_ALIGNMENT = 16  # float32 in a cache line: aligned rows are written faster
_VOTING_QUERIES = 4096  # whose votes for all classes are in memory at once


@dataclass(frozen=True)
class KNNProtocol(Protocol):
    """The k nearest neighbours by cosine similarity vote for their classes with exp(similarity / temperature).

    One search serves all k and temperatures. A class without a vote is never a hit: if all k neighbours are of one class, an image of
    another class is misclassified in top-5 too.
    """

    k: tuple[int, ...]
    temperature: tuple[float, ...]
    weighting: str  # a formula for the card
    tolerance: float = 0.002
    precision: str = "fp32"

    def measure(self, encoder: PreTrainedModel, data: Data, session: Session) -> list[Measured]:
        """ "knn_top1" and, from six classes on, "knn_top5", of each k and temperature. Raises `InputError` for features not finite."""
        session.bar.reset(total=len(data.train) + len(data.test))
        with nullcontext() if self.precision == "fp32" else session.accelerator.autocast():
            bank, bank_labels = extract(encoder, data.train, data.preprocessing, done=session.bar.update)
            queries, labels = extract(encoder, data.test, data.preprocessing, done=session.bar.update)
        labels = data.classes.of_test.to(labels.device)[labels]
        with all_or_none():
            accuracies = knn_accuracy(bank, bank_labels, queries, labels, self, data.classes.count)
        return [
            Measured(f"knn_{metric}", {"k": k, "temperature": temperature}, value)
            for (metric, k, temperature), value in accuracies.items()
        ]


_INSTDISC = KNNProtocol((20, 200), (0.1, 0.07), "exp(cosine / temperature)")
# The others make the features in half precision, in the epochs of a run that trains in it. All search in float32.
KNN_PROTOCOLS = {
    "knn-instdisc-v2": _INSTDISC,
    **{f"knn-instdisc-{precision}-v2": replace(_INSTDISC, precision=precision) for precision in ("bf16", "fp16")},
}


@torch.no_grad()
def nearest(queries: Tensor, bank: Tensor, k: int, chunk: int = 1024) -> tuple[Tensor, Tensor]:
    """Cosine similarities float32 (n, k) and bank rows int64 (n, k) of each query's k nearest neighbours, nearest first.

    All m if the bank has fewer than k rows. Exact, and in true float32 even if torch may use TF32. queries (n, d), bank (m, d): not
    normalised. chunk: queries per matrix product, each with 64 times as many rows of the bank, which bounds the memory.
    """
    parts = F.normalize(queries.float(), dim=1).split(chunk)
    neighbours = [(part.new_empty(len(part), 0), part.new_empty(len(part), 0, dtype=torch.int64)) for part in parts]
    first = 0
    with _true_float32():
        for rows in bank.split(_BANK_ROWS * chunk):
            rows = F.normalize(rows.float(), dim=1)
            count = min(k, len(rows))
            groups = _ALIGNMENT * -(-len(rows) // (_ALIGNMENT * isqrt(len(rows) // count)))
            padded = rows.new_empty(len(parts[0]), -(-len(rows) // groups) * groups)
            padded[:, len(rows) :] = -torch.inf
            for index, part in enumerate(parts):
                cosines = padded[: len(part)]
                torch.mm(part, rows.T, out=cosines[:, : len(rows)])
                values, places = _largest(cosines, groups, count)
                # Merged with those of the previous rows.
                values, places = (torch.cat(pair, dim=1) for pair in zip(neighbours[index], (values, places + first), strict=True))
                values, order = values.topk(min(k, values.shape[1]), dim=1)
                neighbours[index] = values, places.gather(1, order)
            first += len(rows)
    cosines, rows = (torch.cat(column) for column in zip(*neighbours, strict=True))
    return cosines, rows


def _largest(values: Tensor, groups: int, k: int) -> tuple[Tensor, Tensor]:
    """The k largest values of each row, largest first, and their columns; much faster than `topk`. groups: divides the columns.

    All of them lie in the k groups of columns with the largest maxima: a value in another group is smaller than these k maxima.
    """
    grouped = values.unflatten(1, (-1, groups))
    best = grouped.amax(dim=1).topk(k, dim=1, sorted=False).indices
    candidates = grouped.gather(2, best[:, None].expand(-1, grouped.shape[1], -1))
    largest, places = candidates.flatten(1).topk(k, dim=1)
    return largest, places // k * groups + best.gather(1, places % k)


@contextmanager
def _true_float32() -> Iterator[None]:
    """Matrix products without TF32 and bfloat16, which training enables; the previous setting is restored afterwards."""
    # Backend by backend, as the global setting cannot be read once a user has set one of them.
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
    """Top-1 and top-5 accuracy of the queries by (metric, k, temperature), such as ("top1", 20, 0.1).

    bank (m, d), queries (n, d): features, not normalised; labels int64. A k above m uses all m neighbours; "top5" is left out below six
    classes. A class that no neighbour votes for is never a hit. classes: their number, None: the largest label plus one.
    Raises `InputError` for features that are not finite.
    """
    for name, rows in (("train", bank), ("test", queries)):
        if not bool(torch.stack(rows.aminmax()).isfinite().all()):
            raise InputError(f"features of the {name} images are not finite: the encoder's weights are broken")
    classes = classes or int(torch.maximum(bank_labels.max(), labels.max())) + 1
    similarities, rows = nearest(queries, bank, max(protocol.k))
    neighbours = bank_labels[rows]
    accuracies = {}
    for temperature in protocol.temperature:
        # Subtracting the largest similarity only rescales a query's votes, and keeps exp from overflowing.
        votes = ((similarities - similarities[:, :1]) / temperature).exp()
        for k in protocol.k:
            counts, images = [], []
            parts = (rows.split(_VOTING_QUERIES) for rows in (neighbours[:, :k], votes[:, :k], labels))
            for candidates, weights, true in zip(*parts, strict=True):
                # Below all votes, as votes from distant neighbours may round to zero.
                scores = weights.new_full((len(weights), classes), -1.0)
                scores.scatter_(1, candidates, 0.0).scatter_add_(1, candidates, weights)
                voted = (candidates == true[:, None]).any(dim=1)
                counts.append(top_counts(scores[voted], true[voted]))
                images.append(len(true))
            for name in counts[0]:
                accuracies[name, k, temperature] = accuracy([count[name] for count in counts], images)
    return accuracies
