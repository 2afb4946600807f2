"""A data set that is decoded once and kept on the device; a batch is one gather."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

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

_BLOCK = 64  # images that one thread decodes at a time


class ResidentImages(ImageSet):
    """Images in one tensor on the device.

    pixels: uint8 or uint16 (n, channels, H, W) on the device, each image in the top-left corner.
    sizes: int64 (n, 2) on the CPU, heights and widths in px.
    samples: int64 (n,) on the CPU, the images' rows.
    labels: int64 (n,) on the CPU, or None.
    names: one for each image. skipped: of the broken images.
    """

    resident = True

    def __init__(
        self, source: str, split: str, label_names: list[str] | None, fingerprint: str, pixels: Tensor, sizes: Tensor, samples: Tensor,
        labels: Tensor | None, names: list[str], skipped: list[str],
    ):  # fmt: skip
        self.source, self.split, self.label_names, self.fingerprint = source, split, label_names, fingerprint
        self.labels = labels
        self._names = names
        self._skipped = skipped
        self._pixels = pixels
        self._sizes, self._samples = sizes.to(pixels.device), samples.to(pixels.device)
        self._labels = None if labels is None else labels.to(pixels.device)

    @property
    def skipped(self) -> list[str]:
        return list(self._skipped)

    def __len__(self) -> int:
        return len(self._pixels)

    def name(self, position: int) -> str:
        return self._names[position]

    def batches(self, order: Iterable[Tensor]) -> Iterator[Batch]:
        cuda = self._pixels.is_cuda
        for positions in order:
            # Copies from pinned memory do not wait for the device.
            indices = (positions.pin_memory() if cuda else positions).to(self._pixels.device, non_blocking=True)
            labels = None if self._labels is None else self._labels.index_select(0, indices)
            # As int16, since not every device gathers uint16.
            deep = self._pixels.dtype == torch.uint16
            pixels = (self._pixels.view(torch.int16) if deep else self._pixels).index_select(0, indices)
            yield Batch(
                pixels.view(self._pixels.dtype), self._sizes.index_select(0, indices), self._samples.index_select(0, indices), labels
            )

    def read(self, positions: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Batch]]:
        return super().read(positions, max(1, min(batch_size, MAX_BATCH_BYTES // self._pixels[0].nbytes)))


def decode_all(
    rows: Rows, form: PixelFormat, longest: int | None, resolution: RequiredResolution | None, size: tuple[int, int],
    broken: BrokenImages, threads: int, device: torch.device, budget: int,
) -> tuple[Tensor, Tensor, Tensor] | None:  # fmt: skip
    """Pixels (n, channels, H, W) on the device, sizes int64 (n, 2) and rows int64 (n,) of the readable images.

    size: the expected largest height and width; the canvas grows for larger images. Returns None once it would exceed `budget` bytes.
    Raises `InputError` when too many images are broken.
    """
    pixels = torch.zeros(len(rows), form.channels, *size, dtype=form.tensor_dtype, device=device)
    sizes, samples = [], []
    semaphore = PixelSemaphore()

    def decode_block(first: int) -> list[np.ndarray | BrokenImage]:
        return [_decode(rows, row, form, longest, resolution, semaphore) for row in range(first, min(first + _BLOCK, len(rows)))]

    with ThreadPoolExecutor(threads) as pool:
        starts = range(0, len(rows), _BLOCK)
        for first, decoded in zip(starts, prefetch(pool, decode_block, starts, 2 * threads), strict=True):
            images = []
            for row, image in enumerate(decoded, first):
                if isinstance(image, BrokenImage):
                    broken.add(row, rows.name(row), str(image), first + len(decoded))
                else:
                    images.append(image)
                    samples.append(row)
            if not images:
                continue
            block_sizes = np.array([image.shape[:2] for image in images])
            height, width = (int(side) for side in block_sizes.max(axis=0))
            if height > pixels.shape[2] or width > pixels.shape[3]:
                pixels = _enlarge(pixels, height, width, budget)
                if pixels is None:
                    return None
            part = pixels[len(sizes) : len(sizes) + len(images)]
            # Without torch on a CPU: its threads would take time from decoding for each such copy.
            block = part.numpy() if device.type == "cpu" else np.zeros(part.shape, form.dtype)
            for image, canvas in zip(images, block, strict=True):
                paste(image, canvas)
            if device.type != "cpu":
                part.copy_(torch.from_numpy(block))
            sizes.extend(block_sizes.tolist())
    return pixels[: len(sizes)], torch.tensor(sizes), torch.tensor(samples)


def _decode(
    rows: Rows, row: int, form: PixelFormat, longest: int | None, resolution: RequiredResolution | None, semaphore: PixelSemaphore
) -> np.ndarray | BrokenImage:
    try:
        return decode_row(rows, row, form, longest, resolution, semaphore)
    except BrokenImage as error:
        return error


def _enlarge(pixels: Tensor, height: int, width: int, budget: int) -> Tensor | None:
    height, width = max(height, pixels.shape[2]), max(width, pixels.shape[3])
    if len(pixels) * pixels.shape[1] * pixels.element_size() * height * width > budget:
        return None
    larger = pixels.new_zeros(*pixels.shape[:2], height, width)
    larger[:, :, : pixels.shape[2], : pixels.shape[3]] = pixels
    return larger
