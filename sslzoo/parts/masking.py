"""Masks over the patches of an image."""

import torch
from torch import Tensor


def split_patches(noise: Tensor, ratio: float) -> tuple[Tensor, Tensor]:
    """Patches to keep and patches to mask, int64 (n, kept) and (n, masked), both ascending; int(patches * (1 - ratio)) are kept.

    noise: uniform (n, patches): the patches with the smallest numbers are kept. The class token is no patch and not counted.
    """
    kept = int(noise.shape[1] * (1 - ratio))
    order = noise.argsort(dim=1)
    return order[:, :kept].sort(dim=1).values, order[:, kept:].sort(dim=1).values


def patchify(pixels: Tensor, patch: int) -> Tensor:
    """Images (n, 3, H, W) as rows of patches (n, patches, patch * patch * 3): row-major, and so inside a patch, the channel last."""
    count, channels, height, width = pixels.shape
    grid = pixels.reshape(count, channels, height // patch, patch, width // patch, patch)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(count, -1, patch * patch * channels)


def take(rows: Tensor, chosen: Tensor) -> Tensor:
    """The chosen of each image's rows: (n, rows, d) and int64 (n, k) give (n, k, d)."""
    return rows.gather(1, chosen[..., None].expand(-1, -1, rows.shape[-1]))


def place_tokens(kept: Tensor, chosen: Tensor, filler: Tensor, count: int) -> Tensor:
    """Puts kept tokens (n, k, d) at their places among `count`, (n, count, d); `filler` (d,) stands everywhere else."""
    base = filler.to(kept.dtype).expand(len(kept), count, -1)
    return torch.scatter(base, 1, chosen[..., None].expand_as(kept), kept)
