"""What a data set is to the rest of sslzoo: batches of uint8 images on the device. READ FIRST."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

MAX_BATCH_PIXELS = 2**24  # of the canvases of a batch that is read; one image may have more


class Batch(NamedTuple):
    """Some images of one data set, all on the device."""

    pixels: Tensor  # uint8 (n, 3, H, W): each image in the top-left corner of a canvas of zeros
    sizes: Tensor  # int64 (n, 2): height and width of each image in px
    samples: Tensor  # int64 (n,): the images' row numbers in the data set, the key of their random numbers
    labels: Tensor | None  # int64 (n,)


class ImageSet(ABC):
    """The images of one split. Positions 0 .. len - 1 count the images in the order of the data set.

    Training takes them by `batches`, evaluation by `read`: a resident set has left out the broken ones already; of a streamed one, where
    they are found on the way, `batches` puts another image in their place and `read` leaves them out.

    source, split: as given to `load_images`.
    label_names: the classes' names by label, None where the data set has none.
    labels: int64 (len,) on the CPU, -1 of an image that has none; None where none has one.
    unlabelled: why `labels` is None where there might be some, in words.
    fingerprint: sha256 of the content; see `fingerprint.py`.
    resident: True when every image is decoded and on the device.
    read_as: the columns and the canvas that `load_images` was given.
    splits: names of all the splits of the data set.
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
        """Names of the broken images left out so far, in the order of the data set."""

    @abstractmethod
    def __len__(self) -> int:
        """How many positions there are."""

    @abstractmethod
    def name(self, position: int) -> str:
        """The image's path in the data set (see `names.utf8_path`) where its row has one, else "row 17"."""

    @abstractmethod
    def batches(self, order: Iterable[Tensor]) -> Iterator[Batch]:
        """One `Batch` for each element of `order`: int64 (n,) positions on the CPU, n >= 1."""

    def read(self, positions: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Batch]]:
        """Each image of these positions, int64 (n,) on the CPU, that can be decoded, in that order, with the positions of each batch's.

        A batch has `batch_size` images, or fewer so that its canvases have no more than `MAX_BATCH_PIXELS`.
        """
        parts = positions.split(batch_size)
        return zip(parts, self.batches(parts), strict=True)

    def readable(self, positions: Tensor) -> Tensor:
        """Those of the positions, int64 (n,), whose images can be decoded. Decodes what has not been read yet."""
        return positions


def paste(image: np.ndarray, canvas: np.ndarray) -> None:
    """Copies `image`, uint8 (h, w, 3), into the top-left corner of `canvas`, uint8 (3, H, W)."""
    height, width = image.shape[:2]
    canvas[:, :height, :width] = image.transpose(2, 0, 1)
