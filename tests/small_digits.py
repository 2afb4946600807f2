"""The embedded digits' first 85 training and 80 test images as files: five steps an epoch in batches of 16, and a quick kNN."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

from datasets import ClassLabel, Dataset, Features, Image

from sslzoo.data.digits import scattered_digits

TRAIN_IMAGES, TEST_IMAGES = 85, 80


@functools.cache
def small_digits(train_images: int = TRAIN_IMAGES) -> str:
    """The folder of the files, which goes when the tests end. train_images: fewer for shorter epochs."""
    folder = Path(tempfile.mkdtemp(prefix="small-digits-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    features = Features({"image": Image(), "label": ClassLabel(num_classes=10)})
    for split, count in (("train", train_images), ("test", TEST_IMAGES)):
        images, labels = scattered_digits(split)
        rows = {"image": list(images[:count]), "label": labels[:count].tolist()}
        Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")
    return str(folder)
