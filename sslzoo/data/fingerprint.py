"""A name for a data set's content that does not depend on the machine, the path or how the images are held."""

import hashlib

import numpy as np
from torch import Tensor

from .decode import BrokenImage
from .raw_split import Rows

_READ_ALL = 2**30  # bytes; about a second of hashing
_OPEN_ALL = 100_000  # rows; to open more files than that takes longer than to hash them
_SAMPLE = 1024  # rows


def fingerprint_rows(rows: Rows, labels: Tensor | None) -> str:
    """sha256 (hex) over the number of rows, every image's encoded length and label in order, and encoded bytes.

    Up to 1 GiB of encoded images in up to 100,000 rows every byte counts. Above that only the bytes of 1,024 evenly spaced rows (the
    first and the last among them) are read, so that it stays cheap: a change elsewhere that keeps the image's length goes unnoticed.
    Which of the two depends on the data alone, never on the memory of the machine. Names do not count: the same images in a folder
    and in a table have one fingerprint.
    """
    lengths = rows.lengths()
    sha = _start(len(rows), lengths, labels)
    everything = lengths.clip(min=0).sum() <= _READ_ALL and len(rows) <= _OPEN_ALL
    for row in range(len(rows)) if everything else np.linspace(0, len(rows) - 1, _SAMPLE).astype(np.int64):
        try:
            sha.update(rows.encoded(int(row)))
        except BrokenImage:
            sha.update(b"unreadable")
    return sha.hexdigest()


def fingerprint_arrays(images: np.ndarray, labels: Tensor | None) -> str:
    """sha256 (hex) over the number of images, their pixels, uint8 (n, height, width, 3), and their labels."""
    sha = _start(len(images), np.asarray(images.shape, np.int64), labels)
    sha.update(np.ascontiguousarray(images))
    return sha.hexdigest()


def _start(count: int, sizes: np.ndarray, labels: Tensor | None):
    sha = hashlib.sha256(f"{count} images, labels: {labels is not None};".encode())
    sha.update(sizes.astype("<i8").tobytes())
    if labels is not None:
        sha.update(labels.numpy().astype("<i8").tobytes())
    return sha
