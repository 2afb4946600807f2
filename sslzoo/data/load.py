"""`load_images`: one data set, on the device at once when it fits and streamed when it does not."""

import logging

import numpy as np
import torch

from sslzoo.errors import InputError, unknown

from .broken import BrokenImages
from .columns import NO_LABELS
from .decode import BrokenImage, read_size
from .digits import scattered_digits
from .enough import Enough
from .fingerprint import fingerprint_arrays, fingerprint_rows
from .images import ImageSet
from .labels import as_classes
from .memory import default_budget
from .names import EMBEDDED
from .resident import ResidentImages, decode_all
from .rows import Rows
from .source import Opened, open_source
from .streamed import StreamedImages

_PROBES = 256  # images whose headers tell whether the data set fits
_log = logging.getLogger(__name__)


def load_images(
    source: str,
    split: str,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    canvas: int | None = None,
    enough: Enough | None = None,
    device: torch.device,
    budget: int | None = None,
) -> ImageSet:
    """The images of one split.

    source: "digits" (built in, see `digits.py`), a Hub data set id such as "uoft-cs/cifar10" (with "@configuration" where it has
        several), a folder of images with or without class folders and with or without train/test folders, or a Parquet file or a folder
        of them, named after the split: train-00000-of-00002.parquet, test.parquet.
    image_column, label_column: needed only where the columns leave several choices. label_column "none": no labels.
    canvas: longest allowed side in px; larger images are reduced. None: any.
    enough: what is kept of larger images, which bounds the memory that a batch takes. None: all of them.
    budget: bytes that the decoded set may take on the device; larger sets are streamed. None: a quarter of the free memory.
    Raises `InputError` when something named here does not exist, or when more than 1 % of the images are broken.
    """
    opened = None if source == EMBEDDED else open_source(source, split, image_column, label_column)
    device = torch.device(device)
    images = _digits(split, label_column, device) if opened is None else _load(source, split, opened, canvas, enough, device, budget)
    if opened is not None and opened.unlabelled:
        images.unlabelled = opened.unlabelled
        _log.warning("%s (%s): no labels are used: %s", source, split, opened.unlabelled)
    images.read_as = {"image_column": image_column, "label_column": label_column, "canvas": canvas}
    return images


def _load(
    source: str, split: str, opened: Opened, canvas: int | None, enough: Enough | None, device: torch.device, budget: int | None
) -> ImageSet:
    rows = opened.rows
    fingerprint = fingerprint_rows(rows, opened.labels)
    labels, label_names = as_classes(opened.labels, opened.label_names)
    budget = default_budget(device) if budget is None else budget
    size = _probe(rows, canvas, enough, source, split)
    if len(rows) * 3 * size[0] * size[1] <= budget:
        broken = BrokenImages(source, split, len(rows))
        decoded = decode_all(rows, canvas, enough, size, broken, device, budget)
        if decoded is not None:
            pixels, sizes, samples = decoded
            labels = None if labels is None else labels[samples]
            names = [rows.name(row) for row in samples.tolist()]
            return ResidentImages(source, split, label_names, fingerprint, pixels, sizes, samples, labels, names, broken.names)
    broken = BrokenImages(source, split, len(rows))
    return StreamedImages(source, split, label_names, fingerprint, rows, labels, canvas, enough, broken, device)


def _digits(split: str, label_column: str | None, device: torch.device) -> ResidentImages:
    if split not in ("train", "test"):
        raise unknown("split", split, ["train", "test"])
    images, labels = scattered_digits(split)
    labels = torch.from_numpy(labels)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(device)
    samples = torch.arange(len(images))
    sizes = torch.tensor(images.shape[1:3]).repeat(len(images), 1)
    names = [f"row {row}" for row in range(len(images))]
    fingerprint = fingerprint_arrays(images, labels)
    label_names = [str(digit) for digit in range(10)]
    if label_column == NO_LABELS:
        labels = label_names = None
    return ResidentImages(EMBEDDED, split, label_names, fingerprint, pixels, sizes, samples, labels, names, [])


def _probe(rows: Rows, canvas: int | None, enough: Enough | None, source: str, split: str) -> tuple[int, int]:
    """The largest height and width in px among evenly spaced images."""
    sizes, reason = [], ""
    for row in np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _PROBES)).astype(np.int64)).tolist():
        try:
            sizes.append(read_size(rows.encoded(row), canvas, enough))
        except BrokenImage as error:
            reason = reason or f"{rows.name(row)}: {error}"
    if not sizes:
        raise InputError(f"no image in {source} ({split}) can be read ({reason})")
    height, width = np.array(sizes).max(axis=0)
    return int(height), int(width)
