"""Masked siamese networks: masked views through a student, and what it minimises besides a regulariser (MSN, arXiv:2204.07141)."""

from collections.abc import Callable, Sequence
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from .gather import gather
from .masking import split_patches
from .precision import full_precision
from .sinkhorn import sinkhorn


def keep_patches(views: Sequence[Tensor], patch: int, ratios: Sequence[float], draw: Callable[[int], Tensor]) -> list[Tensor]:
    """For each view the patches that stay when `ratios` of them are masked, int64 (n, kept).

    patch: px. draw: gives uniform numbers (n, columns), `Progress.draw`.
    """
    counts = [(view.shape[-1] // patch) ** 2 for view in views]
    noise = draw(sum(counts)).split(counts, dim=1)
    return [split_patches(its_noise, ratio)[0] for its_noise, ratio in zip(noise, ratios, strict=True)]


def each_masked_view(
    network: Callable[[Tensor, Tensor], Tensor], views: Sequence[Tensor], keeps: Sequence[Tensor], joint: bool
) -> Tensor:  # fmt: skip
    """The network's output for every view and the patches kept of it, (views * n, ...), view by view.

    joint: neighbouring views of one size, with equally many patches, go through in one batch.
    """
    pairs = list(zip(views, keeps, strict=True))
    groups = groupby(pairs, key=lambda pair: (pair[0].shape, pair[1].shape)) if joint else (((), [pair]) for pair in pairs)
    return torch.cat([network(*map(torch.cat, zip(*group, strict=True))) for _, group in groups])


def guess_assignments(
    anchors: Tensor, targets: Tensor, prototypes: Tensor, temperature: float, sharpening: float
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The cross entropy of the anchors' assignments to those of their images' targets, and the anchors' mean assignment (k,).

    anchors: (views * n, d), view by view. targets: (n, d), without gradient. prototypes: (k, d). All are normalised here.
    sharpening: targets are raised to the power 1 / sharpening; then three rounds of Sinkhorn use all prototypes equally.
    Both results are means over the anchors, the second over those of all devices.
    """
    with full_precision(anchors.device):
        prototypes = F.normalize(prototypes.float(), dim=1)
        guesses = (F.normalize(anchors.float(), dim=1) @ prototypes.T / temperature).log_softmax(dim=1)
        with torch.no_grad():
            cosines = F.normalize(targets.float(), dim=1) @ prototypes.T
            shares = sinkhorn((cosines / (temperature * sharpening)).log_softmax(dim=1), 1.0, iterations=3)
    entropy = -(shares * guesses.unflatten(0, (-1, len(targets)))).sum(dim=2).mean()
    return entropy, gather(guesses.exp().mean(dim=0, keepdim=True)).mean(dim=0)
