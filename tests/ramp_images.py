"""Grey ramps as files: an image's visible patches tell the masked ones, and a small ViT learns to say so in 128 steps, not in 1,600."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, Image

from sslzoo.data import load_images
from sslzoo.evaluation import Preprocessing

SIDE = 16  # px
COUNTS = {"train": 512, "test": 128}


@functools.cache
def ramp_images() -> str:
    """The folder of the files, which goes when the tests end. Brightness and slopes are random and independent."""
    folder = Path(tempfile.mkdtemp(prefix="ramp-images-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    features = Features({"image": Image(), "label": ClassLabel(names=["one", "two"])})
    generator = np.random.default_rng(0)
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    for split, count in COUNTS.items():
        mean, right, down = generator.uniform(-1, 1, (3, count, 1, 1))
        pixels = (128 + 30 * mean + 48 * (right * x + down * y)).clip(0, 255).astype(np.uint8)
        images = np.repeat(pixels[..., None], 3, axis=3)
        rows = {"image": list(images), "label": [0, 1] * (count // 2)}
        Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")
    return str(folder)


def ramp_pixels(split: str) -> torch.Tensor:
    """All images of a split as an encoder gets them in an evaluation."""
    images = load_images(ramp_images(), split, device=torch.device("cpu"))
    (batch,) = images.batches([torch.arange(len(images))])
    return Preprocessing(SIDE, SIDE)(batch.pixels, batch.sizes)
