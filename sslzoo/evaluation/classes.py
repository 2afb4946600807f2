"""The classes that train and test images share."""

from typing import NamedTuple

import torch
from torch import Tensor

from sslzoo.data import ImageSet
from sslzoo.errors import InputError

_NAMED = 3  # classes in a message


class Classes(NamedTuple):
    """count: classes, over both splits. of_test: int64, the training label of each label of the test split; -1 of one without images."""

    count: int
    of_test: Tensor


def classes_of(train: ImageSet, test: ImageSet) -> Classes:
    """Which label of the test split means what in the training split: by the classes' names where both have them.

    A class that has a name but no training images is no error: its test images are counted as wrong.
    Raises `InputError` for a split without images or labels, and for classes of the test images that training does not know.
    """
    for images in (train, test):
        if len(images) == 0:
            raise InputError(f"{images.source} ({images.split}) has no images, so nothing can be measured on it")
        if images.labels is None or bool((images.labels < 0).all()):
            why = images.unlabelled or "where a column holds them, name it as label_column"
            raise InputError(f"{images.source} ({images.split}) has no labels, so nothing can be measured on it: {why}")
    if not train.label_names or not test.label_names:
        count = max(int(images.labels.max()) for images in (train, test)) + 1
        return Classes(count, torch.arange(count))
    count = len(train.label_names)
    if train.label_names == test.label_names:
        return Classes(count, torch.arange(count))
    label = {name: index for index, name in enumerate(train.label_names)}
    if len(label) < count:
        twice = next(name for index, name in enumerate(train.label_names) if label[name] != index)
        raise InputError(
            f"{train.source} ({train.split}) has two classes named '{twice}', so the classes of {test.source} ({test.split}), "
            "which are not the same, cannot be told by their names"
        )
    used = [test.label_names[index] for index in test.labels.unique().tolist() if index >= 0]
    strange = [name for name in used if name not in label]
    if strange:
        named = ", ".join(f"'{name}'" for name in strange[:_NAMED]) + (" ..." if len(strange) > _NAMED else "")
        raise InputError(
            f"{len(strange)} of the {len(used)} classes of {test.source} ({test.split}) are none of {train.source} ({train.split}): "
            f"{named}; choose splits whose classes have the same names"
        )
    return Classes(count, torch.tensor([label.get(name, -1) for name in test.label_names]))
