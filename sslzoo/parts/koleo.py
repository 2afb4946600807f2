"""KoLeo (arXiv:1806.03198), which DINOv2 takes over: features spread evenly, as each keeps away from its nearest neighbour."""

import torch
import torch.nn.functional as F
from torch import Tensor

from sslzoo.errors import InputError

from .precision import full_precision


def koleo(rows: Tensor) -> Tensor:
    """Minus the mean logarithm of the distance from each row's direction to the nearest other's: features (n, width) of different images.

    Of this process's images alone, as in DINOv2, so that the value depends on how many they are. It is finite for identical rows.
    Raises `InputError` for a single image, which has no neighbour.
    """
    if len(rows) < 2:
        raise InputError("koleo_weight needs two images or more for each process and micro-batch: take a larger batch_size, or 0")
    directions = F.normalize(rows.float(), dim=1, eps=1e-8)
    with torch.no_grad(), full_precision(rows.device):
        itself = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
        nearest = (directions @ directions.T).masked_fill(itself, -2.0).argmax(dim=1)
    distances = (directions - directions[nearest] + 1e-8).norm(dim=1)
    return -(distances + 1e-8).log().mean()
