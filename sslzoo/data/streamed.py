"""A data set larger than the memory for it: images are decoded by threads a few batches ahead of their use."""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from .broken import BrokenImages
from .decode import BrokenImage, decode
from .images import Batch, ImageSet, place
from .rows import Rows
from .threads import ahead, thread_count

_BATCHES = 3  # in memory at once, the one in use among them
_GRAIN = 32  # px: canvases of few different sizes are few different shapes for the code behind them


class StreamedImages(ImageSet):
    """Images decoded on the way. A broken image's place is taken by the next row's image that can be decoded, always the same one.

    So `len` counts all the rows, and `labels` changes at the place of a broken image when it is met. A batch is right in any case.
    """

    resident = False

    def __init__(
        self, source: str, split: str, label_names: list[str] | None, fingerprint: str, rows: Rows, labels: Tensor | None,
        longest: int | None, broken: BrokenImages, device: torch.device,
    ):  # fmt: skip
        self.source, self.split, self.label_names, self.fingerprint = source, split, label_names, fingerprint
        self.labels = labels
        self._rows = rows
        self._longest = longest
        self._broken = broken
        self._device = device
        self._seen = np.zeros(len(rows), bool)

    @property
    def skipped(self) -> list[str]:
        return self._broken.names

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, position: int) -> str:
        return self._rows.name(position)

    def batches(self, order: Iterable[Tensor]) -> Iterator[Batch]:
        # The makers wait for the decoders: with one pool for both they could wait for themselves. Two, so that the decoders have the
        # next batch to do while the last images of one are awaited.
        with ThreadPoolExecutor(thread_count()) as decoders, ThreadPoolExecutor(2) as makers:
            for batch in ahead(makers, lambda positions: self._make(positions, decoders), order, _BATCHES):
                # The copies are started by the thread that uses them, on its CUDA stream.
                yield Batch(*(None if part is None else part.to(self._device, non_blocking=True) for part in batch))

    def _make(self, positions: Tensor, decoders: ThreadPoolExecutor) -> Batch:
        waiting: list[Future] = [decoders.submit(self._image, position) for position in positions.tolist()]
        try:
            decoded = [future.result() for future in waiting]
        finally:
            for future in waiting:
                future.cancel()
        samples = torch.tensor([row for row, _ in decoded])
        images = [image for _, image in decoded]
        sizes = torch.tensor([image.shape[:2] for image in images])
        height, width = (self._canvas(side) for side in sizes.amax(dim=0).tolist())
        cuda = self._device.type == "cuda"
        pixels = torch.zeros(len(images), 3, height, width, dtype=torch.uint8, pin_memory=cuda)
        list(decoders.map(place, images, pixels.numpy()))
        labels = None if self.labels is None else self.labels[samples]
        if cuda:
            sizes, samples, labels = sizes.pin_memory(), samples.pin_memory(), None if labels is None else labels.pin_memory()
        return Batch(pixels, sizes, samples, labels)

    def _canvas(self, side: int) -> int:
        rounded = -(-side // _GRAIN) * _GRAIN
        return rounded if self._longest is None else min(rounded, self._longest)

    def _image(self, position: int) -> tuple[int, np.ndarray]:
        row = position
        while True:
            self._seen[row] = True
            if row not in self._broken:
                try:
                    image = decode(self._rows.encoded(row), self._longest)
                    break
                except BrokenImage as error:
                    self._broken.add(row, self._rows.name(row), str(error), int(self._seen.sum()))
            row = (row + 1) % len(self._rows)
        if row != position and self.labels is not None:
            self.labels[position] = self.labels[row]
        return row, image
