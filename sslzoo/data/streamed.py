"""A data set larger than the memory for it: images are decoded by threads a little ahead of their use."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import repeat

import numpy as np
import torch
from torch import Tensor

from .broken import BrokenImages
from .decode import BrokenImage, decode
from .images import MAX_BATCH_PIXELS, Batch, ImageSet, paste
from .memory import PixelSemaphore
from .prefetch import prefetch, thread_count
from .raw_split import Rows
from .resolution import RequiredResolution

_BATCHES = 3  # in memory at once, the one in use among them
_GRAIN = 32  # px: canvases of few different sizes are few different shapes for the code behind them
_log = logging.getLogger(__name__)


class StreamedImages(ImageSet):
    """Images decoded on the way: positions are rows, and `len` counts the broken ones too, which nobody knows before.

    In `batches`, a broken image's place is taken by the next row's image that can be decoded, always the same one, with its label.
    """

    resident = False

    def __init__(
        self, source: str, split: str, label_names: list[str] | None, fingerprint: str, rows: Rows, labels: Tensor | None,
        longest: int | None, resolution: RequiredResolution | None, broken: BrokenImages, device: torch.device,
    ):  # fmt: skip
        self.source, self.split, self.label_names, self.fingerprint = source, split, label_names, fingerprint
        self.labels = labels
        self._rows = rows
        self._longest, self._resolution = longest, resolution
        self._broken = broken
        self._device = device
        self._seen = np.zeros(len(rows), bool)
        self._semaphore = PixelSemaphore()
        self._replaced = False  # whether one was

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
            for batch in prefetch(makers, lambda positions: self._make(positions, decoders), order, _BATCHES):
                yield self._on_device(batch)

    def read(self, positions: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Batch]]:
        # One maker: the batches come one after the other from what is decoded.
        with ThreadPoolExecutor(thread_count()) as decoders, ThreadPoolExecutor(1) as maker:
            decoded = prefetch(decoders, self._decode, positions.tolist(), 2 * thread_count())
            made = self._packed(zip(positions.tolist(), decoded, strict=True), batch_size)
            ready = prefetch(maker, lambda _: next(made, None), repeat(None), _BATCHES - 1)
            try:
                for batch in ready:
                    if batch is None:
                        break
                    yield batch.samples, self._on_device(batch)
            finally:
                ready.close()
                maker.shutdown()  # what it is at must end before what it takes from can be closed
                made.close()
                decoded.close()

    def readable(self, positions: Tensor) -> Tensor:
        rows = positions.numpy()
        with ThreadPoolExecutor(thread_count()) as decoders:
            for _ in prefetch(decoders, self._decode, rows[~self._seen[rows]].tolist(), 2 * thread_count()):
                pass
        return torch.tensor([row for row in rows.tolist() if row not in self._broken], dtype=torch.int64)

    def _make(self, positions: Tensor, decoders: ThreadPoolExecutor) -> Batch:
        waiting: list[Future] = [decoders.submit(self._image, position) for position in positions.tolist()]
        try:
            decoded = [future.result() for future in waiting]
        finally:
            for future in waiting:
                future.cancel()
        return self._batch(decoded, decoders.map)

    def _packed(self, decoded: Iterable[tuple[int, np.ndarray | None]], batch_size: int) -> Iterator[Batch]:
        """What is decoded, in batches as `read` wants them."""
        images, height, width = [], 0, 0
        for row, image in decoded:
            if image is None:
                continue
            higher, wider = max(height, self._canvas(image.shape[0])), max(width, self._canvas(image.shape[1]))
            if images and (len(images) == batch_size or (len(images) + 1) * higher * wider > MAX_BATCH_PIXELS):
                yield self._batch(images)
                images, higher, wider = [], self._canvas(image.shape[0]), self._canvas(image.shape[1])
            images.append((row, image))
            height, width = higher, wider
        if images:
            yield self._batch(images)

    def _batch(self, decoded: Sequence[tuple[int, np.ndarray]], map_over=map) -> Batch:
        """On the CPU, in memory from which copies to a CUDA device need not wait."""
        samples = torch.tensor([row for row, _ in decoded])
        images = [image for _, image in decoded]
        sizes = torch.tensor([image.shape[:2] for image in images])
        height, width = (self._canvas(side) for side in sizes.amax(dim=0).tolist())
        cuda = self._device.type == "cuda"
        pixels = torch.zeros(len(images), 3, height, width, dtype=torch.uint8, pin_memory=cuda)
        list(map_over(paste, images, pixels.numpy()))
        labels = None if self.labels is None else self.labels[samples]
        if cuda:
            sizes, samples, labels = sizes.pin_memory(), samples.pin_memory(), None if labels is None else labels.pin_memory()
        return Batch(pixels, sizes, samples, labels)

    def _on_device(self, batch: Batch) -> Batch:
        """Called by the thread that uses it: the copies are started on its CUDA stream."""
        return Batch(*(None if part is None else part.to(self._device, non_blocking=True) for part in batch))

    def _canvas(self, side: int) -> int:
        rounded = -(-side // _GRAIN) * _GRAIN
        return rounded if self._longest is None else min(rounded, self._longest)

    def _image(self, position: int) -> tuple[int, np.ndarray]:
        row = position
        while (image := self._decode(row)) is None:
            if not self._replaced:
                self._replaced = True
                _log.warning("%s (%s): in training, a broken image's place is taken by the next one", self.source, self.split)
            row = (row + 1) % len(self._rows)
        return row, image

    def _decode(self, row: int) -> np.ndarray | None:
        """The row's image, None where it is broken."""
        self._seen[row] = True
        if row in self._broken:
            return None
        try:
            return decode(self._rows.encoded(row), self._longest, self._resolution, self._semaphore)
        except BrokenImage as error:
            self._broken.add(row, self._rows.name(row), str(error), int(self._seen.sum()))
            return None
