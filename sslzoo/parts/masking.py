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
    """Images (n, channels, H, W) as rows of patches (n, patches, patch * patch * channels), row-major, the channel last."""
    count, channels, height, width = pixels.shape
    grid = pixels.reshape(count, channels, height // patch, patch, width // patch, patch)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(count, -1, patch * patch * channels)


def gather_tokens(tokens: Tensor, indices: Tensor) -> Tensor:
    """Each image's tokens at its own indices: (n, tokens, d) and int64 (n, k) give (n, k, d)."""
    return tokens.gather(1, indices[..., None].expand(-1, -1, tokens.shape[-1]))


def scatter_tokens(tokens: Tensor, indices: Tensor, mask_token: Tensor, count: int) -> Tensor:
    """Tokens (n, k, d) at their indices, int64 (n, k), among `count`: (n, count, d), with `mask_token` (d,) everywhere else."""
    masked = mask_token.to(tokens.dtype).expand(len(tokens), count, -1)
    return torch.scatter(masked, 1, indices[..., None].expand_as(tokens), tokens)
