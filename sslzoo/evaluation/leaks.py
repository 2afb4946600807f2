"""Test images that stand in the training split too."""

import torch
from torch import Tensor

from sslzoo.data import ImageSet
from sslzoo.processes import all_gather_rows, all_or_none, local_positions

_BATCH = 256  # images
_PRODUCTS = 2**21  # int64 in memory at once, or one image's


@torch.no_grad()
def count_shared(train: ImageSet, test: ImageSet) -> int:
    """How many test images have the size and, pixel for pixel, the content of a training image.

    Images are compared by 64 bits each. That two different ones have the same has a chance below 2^-50: 1 in 10,000 for a pair of splits
    like ImageNet's. Reads both splits once, each process its part, and so is called by all; a streamed one is decoded again.
    """
    with all_or_none():
        digests = [_digests(images, local_positions(len(images))) for images in (train, test)]
    of_train, of_test = map(all_gather_rows, digests)
    return int(torch.isin(of_test, of_train).sum())


def _digests(images: ImageSet, positions: Tensor) -> Tensor:
    """int64, of each image that can be decoded: a sum of all pixels and the size, each times a factor of its place, that wraps around."""
    factors, digests = None, []
    for _, batch in images.read(positions, _BATCH):
        channels, height, width = batch.pixels.shape[1:]
        if factors is None or factors.shape[1:] != (height, width):
            # By place and not by position in memory, as canvases differ; what is outside of an image is zero and adds nothing.
            channel, row, column = (torch.arange(count, device=batch.pixels.device) for count in (channels + 1, height, width))
            places = (channel[:, None, None] << 40) + (row[:, None] << 20) + column
            factors, of_size = _scattered(places[:-1]), _scattered(places[-1, 0, 0] + torch.arange(2, device=row.device))
        parts = batch.pixels.split(max(1, _PRODUCTS // factors.numel()))
        sums = torch.cat([(part * factors).sum(dim=(1, 2, 3)) for part in parts])
        digests.append(sums + (batch.sizes * of_size).sum(dim=1))
    return torch.cat(digests) if digests else torch.empty(0, dtype=torch.int64)


def _scattered(numbers: Tensor) -> Tensor:
    """Odd int64 that look random, one for each (the last steps of SplitMix64, Steele and others, 2014)."""
    numbers = (numbers + 1) * (0x9E3779B97F4A7C15 - 2**64)
    numbers = (numbers ^ (numbers >> 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    numbers = (numbers ^ (numbers >> 27)) * (0x94D049BB133111EB - 2**64)
    return (numbers ^ (numbers >> 31)) | 1
