"""Test images that are training images too."""

from collections.abc import Iterator

import torch
from torch import Tensor

from sslzoo.data import Batch, ImageSet, Subset
from sslzoo.processes import all_or_none, gather_objects, local_positions

_BATCH = 256  # images
_PRODUCTS = 2**21  # int64 values in memory at once, at least one image's


class HashedImages(Subset):
    """All images of another set, each hashed when it is first read, so that `count_overlap` need not decode it again."""

    def __init__(self, images: ImageSet):
        super().__init__(images, torch.arange(len(images)))
        self._hashes, self._is_hashed = torch.empty(len(images), dtype=torch.int64), torch.zeros(len(images), dtype=torch.bool)

    def read(self, positions: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Batch]]:
        factors = size_factors = None
        for found, batch in super().read(positions, batch_size):
            if not self._is_hashed[found].all():
                if factors is None or size_factors is None or factors.shape[1:] != batch.pixels.shape[2:]:
                    factors, size_factors = _factors(batch.pixels)
                # On the images' device, as a copy to the CPU would wait for it.
                self._hashes = self._hashes.to(batch.pixels.device)
                self._hashes[found] = _hash(batch, factors, size_factors)
                self._is_hashed[found] = True
            yield found, batch

    def readable(self, positions: Tensor) -> Tensor:
        if self.resident:
            return positions
        self._read_rest(positions)
        return positions[self._is_hashed[positions]]

    def hashes(self, positions: Tensor) -> Tensor:
        """int64 (n,) on the CPU, of the images at these positions that can be decoded. Reads those that were not read before."""
        self._read_rest(positions)
        return self._hashes.cpu()[positions[self._is_hashed[positions]]]

    def _read_rest(self, positions: Tensor) -> None:
        rest = positions[~self._is_hashed[positions]]
        if len(rest):
            for _ in self.read(rest, _BATCH):
                pass


@torch.no_grad()
def count_overlap(train: HashedImages, test: HashedImages) -> int:
    """How many test images equal a training image in size and every pixel.

    Compares 64-bit hashes. Two different images collide with a probability below 2^-50, any two of splits like ImageNet's with one of 1 in
    10,000. Called by all processes, each of which hashes its share; images that it has read before are not read again.
    """
    with all_or_none():
        hashes = [images.hashes(local_positions(len(images))) for images in (train, test)]
    train_hashes, test_hashes = map(torch.cat, zip(*gather_objects(hashes), strict=True))
    return int(torch.isin(test_hashes, train_hashes).sum())


def _hash(batch: Batch, factors: Tensor, size_factors: Tensor) -> Tensor:
    """int64 (n,): pixels and size, weighted by the factors of their positions, summed modulo 2^64."""
    parts = batch.pixels.split(max(1, _PRODUCTS // factors.numel()))
    sums = torch.cat([(part.long() * factors).sum(dim=(1, 2, 3)) for part in parts])
    return sums + (batch.sizes * size_factors).sum(dim=1)


def _factors(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Factors of the pixels of such canvases, int64 (channels, H, W), and of an image's height and width, (2,)."""
    # By row and column, not by memory offset, as canvas sizes differ. The canvas outside of an image is zero and adds nothing.
    channels, height, width = pixels.shape[1:]
    channel, row, column = (torch.arange(count, device=pixels.device) for count in (channels + 1, height, width))
    places = (channel[:, None, None] << 40) + (row[:, None] << 20) + column
    return _mix(places[:-1]), _mix(places[-1, 0, 0] + torch.arange(2, device=pixels.device))


def _mix(numbers: Tensor) -> Tensor:
    """Pseudo-random odd int64, one for each number (the finalizer of SplitMix64, Steele and others, 2014)."""
    numbers = (numbers + 1) * (0x9E3779B97F4A7C15 - 2**64)
    numbers = (numbers ^ (numbers >> 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    numbers = (numbers ^ (numbers >> 27)) * (0x94D049BB133111EB - 2**64)
    return (numbers ^ (numbers >> 31)) | 1
