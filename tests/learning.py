"""What training on the embedded digits does for an encoder; each method's facts test states the margin it must reach."""

import atexit
import functools
import io
import shutil
import tempfile
from pathlib import Path

import torch
from torch.nn import functional as F

import sslzoo
from sslzoo.data import load_images
from sslzoo.evaluation import Preprocessing, extract
from sslzoo.recipe import read_recipe
from sslzoo.training import train


def gain(name: str, folder: Path, **changes) -> float:
    """The gain in accuracy of `read_out` from training the recipe with `changes`, as a fraction of the test images.

    An epoch in batches of 32 without warm-up takes as many steps as four in the recipes' batches of 128, in a quarter of the time.
    """
    recipe = read_recipe(name, {"test_split": None, **changes})
    torch.manual_seed(recipe.seed)
    weights = io.BytesIO()
    torch.save(recipe.make_method().encoder, weights)
    train(recipe, folder, cpu=True)
    return read_out(sslzoo.load(folder).encoder) - untrained_read_out(weights.getvalue())


@functools.cache
def untrained_read_out(encoder: bytes) -> float:
    """Most methods start from the same weights of the same encoder."""
    return read_out(torch.load(io.BytesIO(encoder), weights_only=False))


@functools.cache
def digits() -> list:
    return [load_images("digits", split, device=torch.device("cpu")) for split in ("train", "test")]


@functools.cache
def digits_teacher() -> str:
    """The folder of a SimCLR that has learned for an epoch, for the methods that learn from a trained encoder."""
    folder = Path(tempfile.mkdtemp(prefix="digits-teacher-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    changes = {"epochs": 1, "batch_size": 32, "warmup_epochs": 0, "test_split": None}
    return str(train(read_recipe("digits/simclr", changes), folder / "simclr", cpu=True).folder)


def read_out(encoder) -> float:
    """Accuracy on the test digits of a linear classifier: ridge regression from standardised features to one-hot labels."""
    (train_rows, train_labels), (test_rows, test_labels) = (extract(encoder, images, Preprocessing(16, 16)) for images in digits())
    mean, deviation = train_rows.mean(0), train_rows.std(0) + 1e-6
    train_rows, test_rows = (F.pad((rows - mean) / deviation, (0, 1), value=1.0).double() for rows in (train_rows, test_rows))
    ridge = train_rows.T @ train_rows + torch.eye(train_rows.shape[1]).double()
    solution = torch.linalg.solve(ridge, train_rows.T @ F.one_hot(train_labels).double())
    return float(((test_rows @ solution).argmax(1) == test_labels).float().mean())
