"""The classes that train and test images share."""

from typing import NamedTuple

import torch
from torch import Tensor

from sslzoo.data import ImageSet
from sslzoo.errors import InputError

_MAX_NAMED = 3  # classes in a message


class Classes(NamedTuple):
    """count: classes in both splits together. of_test: int64, the training label of each test label; -1 if training has no such class."""

    count: int
    of_test: Tensor


def classes_of(train: ImageSet, test: ImageSet) -> Classes:
    """Matches the labels of the two splits, by the names of the classes if both have names.

    A class may be named but have no training images: its test images then count as misclassified.
    Raises `InputError` for a split without images or labels, and for test classes that do not appear in training.
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
        duplicate = next(name for index, name in enumerate(train.label_names) if label[name] != index)
        raise InputError(
            f"{train.source} ({train.split}) has two classes named '{duplicate}', so the classes of {test.source} ({test.split}), "
            "which differ, cannot be matched by name"
        )
    used = [test.label_names[index] for index in test.labels.unique().tolist() if index >= 0]
    unknown = [name for name in used if name not in label]
    if unknown:
        named = ", ".join(f"'{name}'" for name in unknown[:_MAX_NAMED]) + (" ..." if len(unknown) > _MAX_NAMED else "")
        raise InputError(
            f"{len(unknown)} of the {len(used)} classes of {test.source} ({test.split}) are none of {train.source} ({train.split}): "
            f"{named}; choose splits whose classes have the same names"
        )
    return Classes(count, torch.tensor([label.get(name, -1) for name in test.label_names]))
