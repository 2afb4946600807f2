"""`load_images`: a split of a data set, kept on the device if it fits and streamed otherwise."""

import logging

import numpy as np
import torch

from sslzoo.errors import InputError, unknown

from .broken import BrokenImages
from .columns import NO_LABELS
from .decode import BrokenImage, read_size
from .digits import scattered_digits
from .fingerprint import fingerprint_arrays, fingerprint_rows
from .images import ImageSet
from .labels import as_classes
from .memory import default_budget
from .messages import display_name
from .names import EMBEDDED
from .raw_split import RawSplit, Rows
from .resident import ResidentImages, decode_all
from .resolution import RequiredResolution
from .source import open_source
from .streamed import StreamedImages

_PROBES = 256  # images whose headers are read to estimate the size of the data set
_log = logging.getLogger(__name__)


def load_images(
    source: str,
    split: str,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    canvas: int | None = None,
    resolution: RequiredResolution | None = None,
    device: torch.device,
    budget: int | None = None,
    broken_share: float = 0.01,
) -> ImageSet:
    """The images of one split.

    source: "digits" (built in, see `digits.py`); a Hub id such as "uoft-cs/cifar10", with "@configuration" if it has several; a folder of
        images, with or without folders for splits and classes; a `save_to_disk` folder; a Parquet, tar or zip file, or a CSV or JSON lines
        file of image paths; or a folder of such files, named after their split (train-00000-of-00002.parquet, mnist-train.zip).
    split: the name of a folder or file, or a synonym: "test" also means "Testing", "seg_test" or "eval".
    image_column, label_column: needed only if there are several candidates. For a folder of images, label_column is a column of its
        metadata.csv, or "label" for the innermost folders. label_column "none": no labels.
    canvas: longest allowed side in px; larger images are reduced. None: any.
    resolution: how far large images are reduced, which bounds the memory of a batch. None: not at all.
    budget: bytes that the decoded set may take on the device; larger sets are streamed. None: a quarter of the free memory.
    broken_share: the share of images that may be broken; with 1.0, every readable image is used.

    Logs in one line what was found and skipped, as a warning if anything was skipped. Raises `InputError` if something named here does not
    exist, or if too many images are broken.
    """
    device = torch.device(device)
    if source == EMBEDDED:
        images = _digits(split, image_column, label_column, device)
    else:
        raw = open_source(source, split, image_column, label_column)
        budget = default_budget(device) if budget is None else budget
        images = _load(source, split, raw, canvas, resolution, device, budget, broken_share)
        images.splits, images.unlabelled = tuple(raw.splits), raw.unlabelled
    images.read_as = {"image_column": image_column, "label_column": label_column, "canvas": canvas}
    return images


def _load(
    source: str, split: str, raw: RawSplit, canvas: int | None, resolution: RequiredResolution | None, device: torch.device,
    budget: int, broken_share: float,
) -> ImageSet:  # fmt: skip
    rows = raw.rows
    fingerprint = fingerprint_rows(rows, raw.labels)
    labels, label_names = as_classes(raw.labels, raw.label_names)
    size = _probe(rows, canvas, resolution, source, split, broken_share)
    if len(rows) * 3 * size[0] * size[1] <= budget:
        broken = BrokenImages(source, split, len(rows), broken_share)
        decoded = decode_all(rows, canvas, resolution, size, broken, device, budget)
        if decoded is not None:
            pixels, sizes, samples = decoded
            labels = None if labels is None else labels[samples]
            names = [rows.name(row) for row in samples.tolist()]
            return ResidentImages(source, split, label_names, fingerprint, pixels, sizes, samples, labels, names, broken.names)
    broken = BrokenImages(source, split, len(rows), broken_share)
    return StreamedImages(source, split, label_names, fingerprint, rows, labels, canvas, resolution, broken, device)


def _digits(split: str, image_column: str | None, label_column: str | None, device: torch.device) -> ResidentImages:
    if split not in ("train", "test"):
        raise unknown("split", split, ["train", "test"])
    if image_column not in (None, "image"):
        raise unknown("image column", image_column, ["image"])
    if label_column not in (None, "label", NO_LABELS):
        raise unknown("label column", label_column, ["label", NO_LABELS])
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
    digits = ResidentImages(EMBEDDED, split, label_names, fingerprint, pixels, sizes, samples, labels, names, [])
    digits.splits = ("train", "test")
    return digits


def _probe(
    rows: Rows, canvas: int | None, resolution: RequiredResolution | None, source: str, split: str, broken_share: float
) -> tuple[int, int]:
    """The largest height and width in px among evenly spaced images. Raises `InputError` if none is readable, unless all may be broken."""
    probes = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _PROBES)).astype(np.int64)).tolist()
    sizes, reason = [], ""
    for row in probes:
        try:
            sizes.append(read_size(rows.encoded(row), canvas, resolution))
        except BrokenImage as error:
            reason = reason or f"{display_name(rows.name(row))}: {error}"
    if not sizes and (broken_share < 1 or len(probes) == len(rows)):
        raise InputError(f"no image in {display_name(source)} ({split}) can be read ({reason})")
    height, width = np.array(sizes or [(1, 1)]).max(axis=0)
    return int(height), int(width)
