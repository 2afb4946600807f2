"""Test images that are training images too."""

import torch
from torch import Tensor

from sslzoo.data import ImageSet
from sslzoo.processes import all_gather_rows, all_or_none, local_positions

_BATCH = 256  # images
_PRODUCTS = 2**21  # int64 values in memory at once, at least one image's


@torch.no_grad()
def count_overlap(train: ImageSet, test: ImageSet) -> int:
    """How many test images equal a training image in size and every pixel.

    Compares 64-bit hashes. Two different images collide with a probability below 2^-50, any two of splits like ImageNet's with one of 1 in
    10,000. Reads both splits once, and decodes streamed images again. Called by all processes, each of which reads its share.
    """
    with all_or_none():
        hashes = [_hashes(images, local_positions(len(images))) for images in (train, test)]
    train_hashes, test_hashes = map(all_gather_rows, hashes)
    return int(torch.isin(test_hashes, train_hashes).sum())


def _hashes(images: ImageSet, positions: Tensor) -> Tensor:
    """int64 (n,) of the images that can be decoded: pixels and size, weighted by factors of their position, summed modulo 2^64."""
    factors = size_factors = None
    hashes = []
    for _, batch in images.read(positions, _BATCH):
        channels, height, width = batch.pixels.shape[1:]
        if factors is None or size_factors is None or factors.shape[1:] != (height, width):
            # By row and column, not by memory offset, as canvas sizes differ. The canvas outside of an image is zero and adds nothing.
            channel, row, column = (torch.arange(count, device=batch.pixels.device) for count in (channels + 1, height, width))
            places = (channel[:, None, None] << 40) + (row[:, None] << 20) + column
            factors, size_factors = _mix(places[:-1]), _mix(places[-1, 0, 0] + torch.arange(2, device=row.device))
        parts = batch.pixels.split(max(1, _PRODUCTS // factors.numel()))
        sums = torch.cat([(part * factors).sum(dim=(1, 2, 3)) for part in parts])
        hashes.append(sums + (batch.sizes * size_factors).sum(dim=1))
    return torch.cat(hashes) if hashes else torch.empty(0, dtype=torch.int64)


def _mix(numbers: Tensor) -> Tensor:
    """Pseudo-random odd int64, one for each number (the finalizer of SplitMix64, Steele and others, 2014)."""
    numbers = (numbers + 1) * (0x9E3779B97F4A7C15 - 2**64)
    numbers = (numbers ^ (numbers >> 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    numbers = (numbers ^ (numbers >> 27)) * (0x94D049BB133111EB - 2**64)
    return (numbers ^ (numbers >> 31)) | 1
