"""A data set that does not fit into memory: threads decode its images shortly before they are used."""

import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat

import numpy as np
import torch
from torch import Tensor

from .broken import BrokenImages
from .decode import BrokenImage
from .decode_row import decode_row
from .images import MAX_BATCH_BYTES, Batch, ImageSet, paste
from .memory import PixelSemaphore
from .pixel_format import PixelFormat
from .prefetch import prefetch
from .raw_split import Rows
from .resolution import RequiredResolution
from .to_device import Copy, copy_stream, receive, start_copy

_BATCHES = 3  # in memory at once, including the one in use
_GRAIN = 32  # px to which canvases are rounded up, so that batches have few different shapes
_log = logging.getLogger(__name__)


class StreamedImages(ImageSet):
    """Images that are decoded on demand. Positions are rows, and `len` includes broken images, which are not known in advance.

    `batches` replaces a broken image by the next readable one in the order of the rows, with its label.
    """

    resident = False

    def __init__(
        self, source: str, split: str, label_names: list[str] | None, fingerprint: str, rows: Rows, labels: Tensor | None,
        form: PixelFormat, longest: int | None, resolution: RequiredResolution | None, broken: BrokenImages, threads: int,
        device: torch.device,
    ):  # fmt: skip
        self.source, self.split, self.label_names, self.fingerprint = source, split, label_names, fingerprint
        self.labels = labels
        self._rows = rows
        self._form, self._longest, self._resolution = form, longest, resolution
        self._broken, self._threads = broken, threads
        self._device, self._stream = device, copy_stream(device)
        self._read = np.zeros(len(rows), bool)
        self._semaphore = PixelSemaphore()
        self._has_replaced = False

    @property
    def skipped(self) -> list[str]:
        return self._broken.names

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, position: int) -> str:
        return self._rows.name(position)

    def batches(self, order: Iterable[Tensor]) -> Iterator[Batch]:
        # Collating waits for decoding: in one shared pool it could wait for itself. Two collators, so that the decoders go on with the
        # next batch while the last images of one are awaited. A single decoder collates too, as handing images over would take longer.
        alone = self._threads == 1
        with ThreadPoolExecutor(self._threads) as decoders, ThreadPoolExecutor(1 if alone else 2) as collators:
            map_over = map if alone else decoders.map
            for copy in prefetch(collators, lambda positions: self._decode_batch(positions, map_over), order, _BATCHES):
                yield receive(copy)

    def read(self, positions: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Batch]]:
        # A single collator, as each batch begins where the last one ended.
        with ThreadPoolExecutor(self._threads) as decoders, ThreadPoolExecutor(1) as collator:
            decoded = self._decode_ahead(positions.tolist(), decoders)
            collated = self._pack(zip(positions.tolist(), decoded, strict=True), batch_size)
            ready = prefetch(collator, lambda _: next(collated, None), repeat(None), _BATCHES - 1)
            try:
                for copy in ready:
                    if copy is None:
                        break
                    yield copy.positions, receive(copy)
            finally:
                ready.close()
                collator.shutdown()  # a running generator cannot be closed
                collated.close()
                decoded.close()

    def readable(self, positions: Tensor) -> Tensor:
        rows = positions.numpy()
        with ThreadPoolExecutor(self._threads) as decoders:
            for _ in self._decode_ahead(rows[~self._read[rows]].tolist(), decoders):
                pass
        return torch.tensor([row for row in rows.tolist() if row not in self._broken], dtype=torch.int64)

    def _decode_ahead(self, rows: list[int], decoders: ThreadPoolExecutor) -> Generator[np.ndarray | None, None, None]:
        """The rows' images, None for broken ones: decoded ahead, or by whoever asks for them where that is quicker."""
        if self._threads > 1:
            yield from prefetch(decoders, self._decode, rows, 2 * self._threads)
        else:
            yield from map(self._decode, rows)

    def _decode_batch(self, positions: Tensor, map_over: Callable[..., Iterable]) -> Copy:
        return self._collate(list(map_over(self._decode_or_replace, positions.tolist())), map_over)

    def _pack(self, decoded: Iterable[tuple[int, np.ndarray | None]], batch_size: int) -> Iterator[Copy]:
        """Batches of the decoded images, within the limits of `read`."""
        images, height, width = [], 0, 0
        for row, image in decoded:
            if image is None:
                continue
            new_height, new_width = max(height, self._canvas(image.shape[0])), max(width, self._canvas(image.shape[1]))
            if images and (len(images) == batch_size or (len(images) + 1) * new_height * new_width * self._form.bytes > MAX_BATCH_BYTES):
                yield self._collate(images)
                images, new_height, new_width = [], self._canvas(image.shape[0]), self._canvas(image.shape[1])
            images.append((row, image))
            height, width = new_height, new_width
        if images:
            yield self._collate(images)

    def _collate(self, decoded: Sequence[tuple[int, np.ndarray]], map_over: Callable[..., Iterable] = map) -> Copy:
        """A batch on its way to the device, for CUDA from pinned memory."""
        samples = torch.tensor([row for row, _ in decoded])
        images = [image for _, image in decoded]
        sizes = torch.tensor([image.shape[:2] for image in images])
        height, width = (self._canvas(side) for side in sizes.amax(dim=0).tolist())
        cuda = self._device.type == "cuda"
        pixels = torch.empty(len(images), self._form.channels, height, width, dtype=self._form.tensor_dtype, pin_memory=cuda)
        canvases = pixels.numpy()
        canvases.fill(0)  # torch would start threads of its own, which take time from decoding
        list(map_over(paste, images, canvases))
        labels = None if self.labels is None else self.labels[samples]
        if cuda:
            sizes, samples, labels = sizes.pin_memory(), samples.pin_memory(), None if labels is None else labels.pin_memory()
        return start_copy(Batch(pixels, sizes, samples, labels), self._device, self._stream)

    def _canvas(self, side: int) -> int:
        rounded = -(-side // _GRAIN) * _GRAIN
        return rounded if self._longest is None else min(rounded, self._longest)

    def _decode_or_replace(self, position: int) -> tuple[int, np.ndarray]:
        row = position
        while (image := self._decode(row)) is None:
            if not self._has_replaced:
                self._has_replaced = True
                _log.warning("%s (%s): training replaces a broken image by the next one", self.source, self.split)
            row = (row + 1) % len(self._rows)
        return row, image

    def _decode(self, row: int) -> np.ndarray | None:
        """The row's image, or None if it is broken."""
        self._read[row] = True
        if row in self._broken:
            return None
        try:
            return decode_row(self._rows, row, self._form, self._longest, self._resolution, self._semaphore)
        except BrokenImage as error:
            self._broken.add(row, self._rows.name(row), str(error), int(self._read.sum()))
            return None
