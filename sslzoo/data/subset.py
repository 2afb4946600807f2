"""A subset of a data set's images as a data set."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from .images import Batch, ImageSet


class Subset(ImageSet):
    """The images at `positions` of another set, int64 (n,) on the CPU, ascending, without copies. The fingerprint is the full set's."""

    def __init__(self, images: ImageSet, positions: Tensor):
        self.source, self.split, self.label_names, self.fingerprint = images.source, images.split, images.label_names, images.fingerprint
        self.resident, self.read_as, self.unlabelled = images.resident, images.read_as, images.unlabelled
        self.splits = images.splits
        self.labels = None if images.labels is None else images.labels[positions]
        self._images, self._positions = images, positions

    @property
    def skipped(self) -> list[str]:
        return self._images.skipped

    def __len__(self) -> int:
        return len(self._positions)

    def name(self, position: int) -> str:
        return self._images.name(int(self._positions[position]))

    def batches(self, order: Iterable[Tensor]) -> Iterator[Batch]:
        return self._images.batches(self._positions[positions] for positions in order)

    def read(self, positions: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Batch]]:
        for found, batch in self._images.read(self._positions[positions], batch_size):
            yield torch.searchsorted(self._positions, found), batch

    def readable(self, positions: Tensor) -> Tensor:
        return torch.searchsorted(self._positions, self._images.readable(self._positions[positions]))


def without_broken(images: ImageSet) -> ImageSet:
    """The set without its broken images, which a resident set has skipped already."""
    positions = images.readable(torch.arange(len(images)))
    return images if len(positions) == len(images) else Subset(images, positions)


def labelled(images: ImageSet) -> ImageSet:
    """The set without the images that have no label."""
    has_label = images.labels >= 0
    return images if bool(has_label.all()) else Subset(images, has_label.nonzero()[:, 0])
