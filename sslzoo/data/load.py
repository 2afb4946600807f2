"""`load_images`: a split of a data set, kept on the device if it fits and streamed otherwise."""

import logging

import numpy as np
import torch

from sslzoo.errors import InputError, unknown

from .broken import BrokenImages
from .columns import NO_LABELS
from .decode import BrokenImage
from .decode_row import read_row_header
from .digits import scattered_digits
from .fingerprint import fingerprint_arrays, fingerprint_rows
from .images import ImageSet
from .labels import as_classes
from .memory import default_budget
from .messages import display_name
from .names import EMBEDDED
from .pixel_format import PixelFormat
from .prefetch import thread_count
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
    channels: int = 3,
    canvas: int | None = None,
    resolution: RequiredResolution | None = None,
    device: torch.device,
    budget: int | None = None,
    broken_share: float = 0.01,
) -> ImageSet:
    """The images of one split.

    source: "digits" (built in, see `digits.py`); a Hub id such as "uoft-cs/cifar10", with "@configuration" if it has several; a folder of
        images, with or without folders for splits and classes; a `save_to_disk` folder; a Parquet, tar or zip file, or a CSV or JSON lines
        file of image paths; or a folder of such files, named after their split (train-00000-of-00002.parquet, mnist-train.zip). An image is
        a picture or an array (a .npy file, nested lists in Parquet).
    split: the name of a folder or file, or a synonym: "test" also means "Testing", "seg_test" or "eval".
    image_column, label_column: needed only if there are several candidates. For a folder of images, label_column is a column of its
        metadata.csv, or "label" for the innermost folders. label_column "none": no labels.
    channels: of each image. 3: pictures are RGB of 8 bits. 1: pictures become grey, of 16 bits where one has them. Other numbers, and
        arrays of any: as stored, of 8 or 16 bits; signed values are shifted by half of their range.
    canvas: longest allowed side in px; larger images are reduced. None: any.
    resolution: how far large images are reduced, which bounds the memory of a batch. None: not at all.
    budget: bytes that the decoded set may take on the device; larger sets are streamed. None: a quarter of the free memory.
    broken_share: the share of images that may be broken; with 1.0, every readable image is used.

    Logs in one line what was found and skipped, as a warning if anything was skipped. Raises `InputError` if something named here does not
    exist, or if too many images are broken.
    """
    device = torch.device(device)
    if source == EMBEDDED:
        images = _digits(split, image_column, label_column, channels, device)
    else:
        raw = open_source(source, split, image_column, label_column)
        budget = default_budget(device) if budget is None else budget
        images = _load(source, split, raw, channels, canvas, resolution, device, budget, broken_share)
        images.splits, images.unlabelled = tuple(raw.splits), raw.unlabelled
    images.read_as = {"image_column": image_column, "label_column": label_column, "canvas": canvas}
    return images


def _load(
    source: str, split: str, raw: RawSplit, channels: int, canvas: int | None, resolution: RequiredResolution | None,
    device: torch.device, budget: int, broken_share: float,
) -> ImageSet:  # fmt: skip
    rows = raw.rows
    lengths = rows.lengths()
    fingerprint = fingerprint_rows(rows, lengths, raw.labels)
    labels, label_names = as_classes(raw.labels, raw.label_names)
    size, form = _probe(rows, channels, canvas, resolution, source, split, broken_share)
    threads = thread_count(int(lengths.mean()), size[0] * size[1])
    if len(rows) * form.bytes * size[0] * size[1] <= budget:
        broken = BrokenImages(source, split, len(rows), broken_share)
        decoded = decode_all(rows, form, canvas, resolution, size, broken, threads, device, budget)
        if decoded is not None:
            pixels, sizes, samples = decoded
            labels = None if labels is None else labels[samples]
            names = [rows.name(row) for row in samples.tolist()]
            return ResidentImages(source, split, label_names, fingerprint, pixels, sizes, samples, labels, names, broken.names)
    broken = BrokenImages(source, split, len(rows), broken_share)
    return StreamedImages(source, split, label_names, fingerprint, rows, labels, form, canvas, resolution, broken, threads, device)


def _digits(split: str, image_column: str | None, label_column: str | None, channels: int, device: torch.device) -> ResidentImages:
    if split not in ("train", "test"):
        raise unknown("split", split, ["train", "test"])
    if image_column not in (None, "image"):
        raise unknown("image column", image_column, ["image"])
    if label_column not in (None, "label", NO_LABELS):
        raise unknown("label column", label_column, ["label", NO_LABELS])
    if channels not in (1, 3):
        raise InputError(f"the images of {EMBEDDED} are grey, of 1 or 3 equal channels, and the recipe's `channels` is {channels}")
    images, labels = scattered_digits(split)
    labels = torch.from_numpy(labels.copy())
    pixels = torch.from_numpy(images[..., :channels]).permute(0, 3, 1, 2).contiguous().to(device)
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
    rows: Rows, channels: int, canvas: int | None, resolution: RequiredResolution | None, source: str, split: str, broken_share: float
) -> tuple[tuple[int, int], PixelFormat]:
    """Among evenly spaced images the largest height and width in px, and the format that holds all their values.

    Raises `InputError` if none is readable, unless all may be broken.
    """
    probes = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _PROBES)).astype(np.int64)).tolist()
    headers, reason = [], ""
    for row in probes:
        try:
            headers.append(read_row_header(rows, row, channels, canvas, resolution))
        except BrokenImage as error:
            reason = reason or f"{display_name(rows.name(row))}: {error}"
    if not headers and (broken_share < 1 or len(probes) == len(rows)):
        raise InputError(f"no image in {display_name(source)} ({split}) can be read ({reason})")
    if channels == 1 and any(header.is_grey is False for header in headers):
        _log.warning("%s (%s): colour pictures are made grey, as channels is 1", display_name(source), split)
    height, width = np.array([(header.height, header.width) for header in headers] or [(1, 1)]).max(axis=0)
    dtype = max((header.dtype for header in headers), key=lambda dtype: dtype.itemsize, default=np.dtype(np.uint8))
    return (int(height), int(width)), PixelFormat(channels, dtype)
