"""From an encoder and two splits to numbers that say how they were measured."""

import logging
from typing import Any

from transformers import PreTrainedModel

from sslzoo.data import ImageSet, labelled
from sslzoo.errors import unknown
from sslzoo.processes import check_equal, explain_lost_process, gather_objects, local_positions

from .classes import classes_of
from .classifier import CLASSIFIER_PROTOCOLS
from .features import Preprocessing
from .knn import KNN_PROTOCOLS
from .leaks import count_shared
from .linear_features import FEATURE_PROTOCOLS
from .protocol import Data, Protocol, Session

_log = logging.getLogger(__name__)
PROTOCOLS: dict[str, Protocol] = {**KNN_PROTOCOLS, **FEATURE_PROTOCOLS, **CLASSIFIER_PROTOCOLS}


def protocol_named(name: str) -> Protocol:
    """One of `PROTOCOLS`. Raises `InputError`."""
    if name not in PROTOCOLS:
        raise unknown("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]


def make_data(train: ImageSet, test: ImageSet, preprocessing: Preprocessing) -> Data:
    """What is measured on: the images that have a label; called by all processes, since they must have the same.

    Raises `InputError` for splits without labels or with classes of their own.
    """
    check_equal("the images", [(images.fingerprint, len(images)) for images in (train, test)])
    check_equal("the preprocessing", preprocessing)
    classes = classes_of(train, test)
    return Data(_labelled(train), _labelled(test), classes, preprocessing)


def measure(encoder: PreTrainedModel, data: Data, protocol: str, session: Session) -> list[dict[str, Any]]:
    """Every number of a protocol: {"protocol", "dataset", "split", "metric", "arguments", "value"}; values are fractions.

    Called by all processes; an error in one of them ends all. Raises `InputError`.
    """
    with explain_lost_process():
        found = protocol_named(protocol).measure(encoder, data, session)
    return [{"protocol": protocol, "dataset": data.test.source, "split": data.test.split, **measured._asdict()} for measured in found]


def data_facts(data: Data) -> dict[str, Any]:
    """What was measured on, as a number's provenance holds it: fingerprints, counts and preprocessing.

    "train_images", "test_images": those with a label that can be decoded. "test_images_in_train": how many test images are, pixel for
    pixel, training images too. Looks at every image once; called by all processes, each of which looks at its part.
    """
    train, test, preprocessing = data.train, data.test, data.preprocessing
    shared = count_shared(train, test)
    skipped = [{name for names in gather_objects(images.skipped) for name in names} for images in (train, test)]
    return {
        "train_split": train.split, "train_fingerprint": train.fingerprint, "test_fingerprint": test.fingerprint,
        "train_images": _readable(train), "test_images": _readable(test), "skipped": sum(map(len, skipped)),
        "read_as": test.read_as, "classes": data.classes.count, "test_images_in_train": shared,
        "preprocessing": {key: list(value) if isinstance(value, tuple) else value for key, value in preprocessing._asdict().items()},
    }  # fmt: skip


def _readable(images: ImageSet) -> int:
    """How many can be decoded, of those of all processes; each has read its part already."""
    return sum(gather_objects(len(images.readable(local_positions(len(images))))))


def _labelled(images: ImageSet) -> ImageSet:
    kept = labelled(images)
    if len(kept) < len(images):
        without = len(images) - len(kept)
        _log.warning("%s (%s): left out %d of %d images, which have no label", images.source, images.split, without, len(images))
    return kept
