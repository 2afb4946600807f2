"""Images of a batch mixed in pairs, and their labels with them: mixup, CutMix and label smoothing."""

import math

import numpy as np
import torch
from torch import Tensor


def mix(
    images: Tensor, labels: Tensor, classes: int, *, mixup: float, cutmix: float, smoothing: float, draw: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """The images mixed, of the same shape and type, and their soft labels, float32 (n, classes), whose rows sum to 1.

    The whole batch is mixed in one way, drawn with equal chances where both are on: blended (mixup, arXiv:1710.09412), or with a box of
    the partner pasted in (CutMix, arXiv:1905.04899). An image's partner is its counterpart in the reversed batch.

    images: (n, 3, height, width), left as they are. labels: int64 (n,), on the images' device.
    mixup, cutmix: a of the Beta(a, a) of which the image's own share is drawn; 0: not used.
    smoothing: share of every label that is spread over all classes.
    draw: on the host, so that nothing waits for the device; what it gives for the same state is the same.
    """
    rest = smoothing / classes
    targets = torch.full((len(images), classes), rest, device=images.device)
    targets.scatter_(1, labels[:, None], 1 - smoothing + rest)
    if not mixup and not cutmix:
        return images, targets
    pastes = draw.random() < 0.5 if mixup and cutmix else cutmix > 0
    own = draw.beta(cutmix, cutmix) if pastes else draw.beta(mixup, mixup)
    if not pastes:
        return images.lerp(images.flip(0), 1 - own), targets.lerp(targets.flip(0), 1 - own)
    rows, columns = (_side(length, math.sqrt(1 - own), draw) for length in images.shape[2:])
    mixed = images.clone()
    mixed[:, :, rows, columns] = images.flip(0)[:, :, rows, columns]
    # The box may have been cut at a border: what counts is what was pasted.
    pasted = (rows.stop - rows.start) * (columns.stop - columns.start) / (images.shape[2] * images.shape[3])
    return mixed, targets.lerp(targets.flip(0), pasted)


def _side(length: int, share: float, draw: np.random.Generator) -> slice:
    """A share of the length around a random px, cut at the borders."""
    center, half = int(draw.integers(length)), int(length * share) // 2
    return slice(max(0, center - half), min(length, center + half))
