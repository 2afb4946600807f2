"""Mixup, CutMix and label smoothing of a batch."""

import math

import numpy as np
import torch
from torch import Tensor


def mix(
    images: Tensor, labels: Tensor, classes: int, *, mixup: float, cutmix: float, smoothing: float, draw: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """The mixed images, of the same shape and type, and their soft labels, float32 (n, classes), whose rows sum to 1.

    The whole batch is mixed either by mixup (arXiv:1710.09412), which blends images, or by CutMix (arXiv:1905.04899), which pastes a box
    of the partner, each with probability 0.5 if both are used. An image's partner is its counterpart in the reversed batch.

    images: (n, 3, height, width), not modified. labels: int64 (n,), on the images' device.
    mixup, cutmix: alpha of the Beta(alpha, alpha) that the image's own share is drawn from; 0: not used.
    smoothing: the share of each label that is spread evenly over all classes.
    draw: a generator on the host, which needs no device sync.
    """
    off_value = smoothing / classes
    targets = torch.full((len(images), classes), off_value, device=images.device)
    targets.scatter_(1, labels[:, None], 1 - smoothing + off_value)
    if not mixup and not cutmix:
        return images, targets
    use_cutmix = draw.random() < 0.5 if mixup and cutmix else cutmix > 0
    own = draw.beta(cutmix, cutmix) if use_cutmix else draw.beta(mixup, mixup)
    if not use_cutmix:
        return images.lerp(images.flip(0), 1 - own), targets.lerp(targets.flip(0), 1 - own)
    rows, columns = (_box_side(length, math.sqrt(1 - own), draw) for length in images.shape[2:])
    mixed = images.clone()
    mixed[:, :, rows, columns] = images.flip(0)[:, :, rows, columns]
    # The box may have been clipped at a border, so the ratio is that of the pasted area.
    pasted = (rows.stop - rows.start) * (columns.stop - columns.start) / (images.shape[2] * images.shape[3])
    return mixed, targets.lerp(targets.flip(0), pasted)


def _box_side(length: int, share: float, draw: np.random.Generator) -> slice:
    """A share of the length around a random px, clipped at the borders."""
    center, half = int(draw.integers(length)), int(length * share) // 2
    return slice(max(0, center - half), min(length, center + half))
