"""Gaussian blur, each image with its own sigma, as two matrix products. What lies beyond a border does not count."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_TILE = 32  # px of the result that one product makes of a single image


def blur(images: Tensor, sigmas: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Images float32 (n, channels, size, size) blurred by `sigmas`, (n,) in px; 0 leaves an image as it is.

    The weights of the px inside the image are raised to the sum 1. In memory the images of the result lie column by column.
    dtype: in which the images are multiplied.
    """
    channels, size = images.shape[-3], images.shape[-1]
    places = torch.arange(size, device=images.device)
    squares = (places - places[:, None]).square()
    # Below a hundredth of a px nothing is left of the neighbours' weights.
    weights = (squares * (-0.5 / sigmas.clamp(min=0.01).square()).view(-1, 1, 1)).exp_()
    weights = weights.div_(weights.sum(dim=2, keepdim=True)).to(dtype)
    columns = torch.bmm(weights, images.to(dtype).flatten(1, 2).transpose(1, 2))
    columns = torch.bmm(columns.view(-1, size * channels, size), weights.transpose(1, 2))
    return columns.float().view(-1, size, channels, size).permute(0, 2, 3, 1)


def blur_one(image: Tensor, sigma: float) -> Tensor:
    """One image, float32 (channels, size, size), as `blur` does it, by a kernel that ends at 4 sigma: the quick way on a CPU."""
    channels, size = image.shape[0], image.shape[-1]
    tile, radius = _TILE, math.ceil(4 * sigma)
    if tile + 2 * radius >= size:
        tile, radius = size, 0
    tiles = math.ceil(size / tile)
    # Result px of a tile are from its first px on, and take from `radius` px before it on.
    inputs, outputs = torch.arange(-radius, tile + radius)[:, None], torch.arange(tile)
    kernel = ((inputs - outputs).square() * (-0.5 / sigma**2)).exp_()
    places = inputs + tile * torch.arange(tiles)[:, None, None]
    weights = kernel * ((places >= 0) & (places < size))
    weights = weights.div_(weights.sum(dim=1, keepdim=True)).transpose(1, 2)

    def axis(lines: Tensor, out: Tensor | None = None) -> Tensor:
        """Lines (count, size), blurred along their second axis and transposed: (tiles * tile, count)."""
        lines = F.pad(lines, (radius, tiles * tile - size + radius))
        pieces = lines.as_strided((tiles, tile + 2 * radius, len(lines)), (tile, 1, lines.shape[1]))
        return torch.bmm(weights, pieces).flatten(0, 1)

    columns = axis(image.reshape(channels * size, size))[:size].view(size, channels, size)
    return torch.stack([axis(columns[:, channel])[:size] for channel in range(channels)])
