"""A hash of a data set's content, independent of machine, path and how the images are stored."""

import hashlib

import numpy as np
from torch import Tensor

from .decode import BrokenImage
from .raw_split import Rows

_MAX_BYTES = 2**30  # that are all hashed; about a second
_MAX_ROWS = 100_000  # that are all hashed; opening more files takes longer than hashing them
_SAMPLE = 1024  # rows hashed of larger data sets


def fingerprint_rows(rows: Rows, lengths: np.ndarray, labels: Tensor | None) -> str:
    """sha256 (hex) of the number of rows, the encoded lengths, the labels and encoded bytes, in the order of the rows.

    Up to 1 GiB in up to 100,000 rows, all bytes are hashed. Beyond that, only those of 1,024 evenly spaced rows, the first and the last
    included: a change elsewhere that keeps the image's length goes unnoticed. Which of the two depends on the data alone, never on the
    machine. Names are not hashed: the same images in a folder and in a table have the same fingerprint.
    lengths: `rows.lengths()`.
    """
    sha = _start(len(rows), lengths, labels)
    everything = lengths.clip(min=0).sum() <= _MAX_BYTES and len(rows) <= _MAX_ROWS
    for row in range(len(rows)) if everything else np.linspace(0, len(rows) - 1, _SAMPLE).astype(np.int64):
        try:
            sha.update(rows.encoded(int(row)))
        except BrokenImage:
            sha.update(b"unreadable")
    return sha.hexdigest()


def fingerprint_arrays(images: np.ndarray, labels: Tensor | None) -> str:
    """sha256 (hex) of the number of images, their pixels, uint8 (n, height, width, 3), and their labels."""
    sha = _start(len(images), np.asarray(images.shape, np.int64), labels)
    sha.update(np.ascontiguousarray(images))
    return sha.hexdigest()


def _start(count: int, sizes: np.ndarray, labels: Tensor | None):
    sha = hashlib.sha256(f"{count} images, labels: {labels is not None};".encode())
    sha.update(sizes.astype("<i8").tobytes())
    if labels is not None:
        sha.update(labels.numpy().astype("<i8").tobytes())
    return sha
