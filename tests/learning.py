"""What training on the embedded digits does for an encoder; each method's facts test states the margin it must reach."""

import atexit
import functools
import io
import math
import shutil
import tempfile
from pathlib import Path

import torch
from ramp_images import ramp_images
from torch.nn import functional as F

import sslzoo
from sslzoo.data import load_images
from sslzoo.evaluation import Preprocessing, extract
from sslzoo.method import Progress
from sslzoo.recipe import read_recipe
from sslzoo.training import train
from sslzoo.views import Renderer


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


def prediction_of_assignments(name: str, folder: Path) -> float:
    """By how many nats the loss on test images' views, a cross entropy with assignments, is less than the entropy of the mean prediction.

    Targets use all prototypes equally, so no prediction that is the same for every image gets above 0. The images are ramps, which a
    small ViT learns in 48 steps; of the digits it learns as much in 200.
    """
    settings = {"dataset": ramp_images(), "test_split": None, "epochs": 3, "batch_size": 32, "warmup_epochs": 0}
    recipe = read_recipe(name, settings)
    train(recipe, folder, cpu=True)
    images = load_images(recipe.dataset, "test", device=torch.device("cpu"))
    (batch,) = images.batches([torch.arange(len(images))])
    render = Renderer(list(recipe.make_views().values()), recipe.seed, mean=recipe.mean, std=recipe.std)
    with torch.no_grad():
        views = render(batch.pixels, batch.sizes, batch.samples, 0)
        out = sslzoo.load(folder).eval()(views, Progress(0, 1, 0, 0, batch.samples))
    return float(out["usage_entropy"]) * math.log(recipe.method_config().prototypes) - float(out["loss"])


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
