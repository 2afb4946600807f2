"""The data of an evaluation: labelled training and test images, their classes and preprocessing, and the facts for provenance."""

import logging
from typing import Any, NamedTuple

from sslzoo.data import ImageSet, labelled
from sslzoo.processes import check_equal, gather_objects, local_positions

from .classes import Classes, classes_of
from .preprocessing import Preprocessing
from .train_test_overlap import HashedImages, count_overlap

_log = logging.getLogger(__name__)


class Data(NamedTuple):
    """What an encoder is measured on."""

    train: HashedImages
    test: HashedImages
    classes: Classes
    preprocessing: Preprocessing  # of test images, and of training images that a protocol does not augment


def make_data(train: ImageSet, test: ImageSet, preprocessing: Preprocessing) -> Data:
    """The labelled images of both splits. Called by all processes, which must have the same images.

    Raises `InputError` for splits without labels, and for test classes that do not appear in training.
    """
    check_equal("the images", [(images.fingerprint, len(images)) for images in (train, test)])
    check_equal("the preprocessing", preprocessing)
    classes = classes_of(train, test)
    return Data(HashedImages(_labelled(train)), HashedImages(_labelled(test)), classes, preprocessing)


def data_facts(data: Data) -> dict[str, Any]:
    """The data's part of a number's provenance: fingerprints, counts and preprocessing.

    "train_images", "test_images": labelled images that can be decoded. "test_images_in_train": test images that are, pixel for pixel,
    training images too. Called by all processes, each of which reads those images of its share that it has not read before: after a
    measurement that embeds every image once, none.
    """
    train, test, preprocessing = data.train, data.test, data.preprocessing
    overlap = count_overlap(train, test)
    skipped = [{name for names in gather_objects(images.skipped) for name in names} for images in (train, test)]
    return {
        "train_split": train.split, "train_fingerprint": train.fingerprint, "test_fingerprint": test.fingerprint,
        "train_images": _readable(train), "test_images": _readable(test), "skipped": sum(map(len, skipped)),
        "read_as": test.read_as, "classes": data.classes.count, "test_images_in_train": overlap,
        "preprocessing": {key: list(value) if isinstance(value, tuple) else value for key, value in preprocessing._asdict().items()},
    }  # fmt: skip


def _readable(images: ImageSet) -> int:
    """How many images can be decoded; each process has already read its share."""
    return sum(gather_objects(len(images.readable(local_positions(len(images))))))


def _labelled(images: ImageSet) -> ImageSet:
    kept = labelled(images)
    if len(kept) < len(images):
        without = len(images) - len(kept)
        _log.warning("%s (%s): left out %d of %d images, which have no label", images.source, images.split, without, len(images))
    return kept
