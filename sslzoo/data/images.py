"""`ImageSet`, the interface of a data set: batches of images on the device. READ FIRST."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

MAX_BATCH_BYTES = 3 * 2**24  # of all canvases of a batch that `read` makes; a single image may have more


class Batch(NamedTuple):
    """Some images of a data set, on the device."""

    pixels: Tensor  # uint8 or uint16 (n, channels, H, W): each image in the top-left corner of a canvas of zeros
    sizes: Tensor  # int64 (n, 2): height and width of each image in px
    samples: Tensor  # int64 (n,): the images' row numbers in the data set, which key their random numbers
    labels: Tensor | None  # int64 (n,)


class ImageSet(ABC):
    """The images of one split. Positions 0 .. len - 1 count the images in the order of the data set.

    Training uses `batches`, evaluation uses `read`. A resident set has skipped broken images already. A streamed set finds them on the way:
    `batches` replaces them by other images, `read` skips them.

    source, split: as given to `load_images`.
    label_names: the classes' names by label, None without labels.
    labels: int64 (len,) on the CPU, -1 for an image without a label; None if no image has one.
    unlabelled: why `labels` is None although labels might be expected; else "".
    fingerprint: sha256 of the content; see `fingerprint.py`.
    resident: whether every image is decoded and on the device.
    read_as: the columns and the canvas that `load_images` was given.
    splits: the names of all splits of the data set.
    """

    source: str
    split: str
    label_names: list[str] | None
    labels: Tensor | None
    unlabelled: str = ""
    fingerprint: str
    resident: bool
    read_as: dict[str, Any] | None = None
    splits: tuple[str, ...] = ()

    @property
    @abstractmethod
    def skipped(self) -> list[str]:
        """Names of the broken images found so far, in the order of the data set."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of positions."""

    @abstractmethod
    def name(self, position: int) -> str:
        """The image's path in the data set (see `names.utf8_path`), or "row 17" where it has none."""

    @abstractmethod
    def batches(self, order: Iterable[Tensor]) -> Iterator[Batch]:
        """One `Batch` for each element of `order`: int64 (n,) positions on the CPU, n >= 1."""

    def read(self, positions: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Batch]]:
        """Batches of the readable images at these positions, int64 (n,) on the CPU, in this order, each with its images' positions.

        A batch has `batch_size` images, or fewer to keep its canvases within `MAX_BATCH_BYTES`.
        """
        chunks = positions.split(batch_size)
        return zip(chunks, self.batches(chunks), strict=True)

    def readable(self, positions: Tensor) -> Tensor:
        """Those of the positions, int64 (n,), whose images can be decoded. Decodes the images that were not read before."""
        return positions


def paste(image: np.ndarray, canvas: np.ndarray) -> None:
    """Copies `image`, (h, w, channels), into the top-left corner of `canvas`, (channels, H, W), of the same type."""
    height, width = image.shape[:2]
    canvas[:, :height, :width] = image.transpose(2, 0, 1)
