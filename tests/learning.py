"""What a little training does, by measures that each method's facts test states a margin for."""

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
from sslzoo.recipe import Recipe, read_recipe
from sslzoo.run import Run
from sslzoo.training import train
from sslzoo.views import Renderer


def digits_run(name: str, folder: Path, **changes) -> Run:
    """A run of a recipe for digits with `changes`, in batches of 32 and without warm-up.

    An epoch then takes as many steps as four in batches of 128, in a quarter of the time.
    """
    changes = {"test_split": None, "batch_size": 32, "warmup_epochs": 0, **changes}
    return train(read_recipe(name, changes), folder, cpu=True)


def gain(run: Run) -> float:
    """The gain in accuracy of `read_out` from training, as a fraction of the test images."""
    torch.manual_seed(run.recipe.seed)
    weights = io.BytesIO()
    torch.save(run.recipe.make_method().encoder, weights)
    return read_out(sslzoo.load(run.folder).encoder) - untrained_read_out(weights.getvalue())


def penalty_for_other_images(run: Run) -> float:
    """By how much the loss on test images grows when every view but an image's first is the next image's.

    A read-out gains from almost any training, this only from a loss of the right sign.
    """
    model = sslzoo.load(run.folder).train()
    (first, *others), progress = views_of_test_images(run.recipe)
    with torch.no_grad():
        own = model([first, *others], progress)["loss"]
        return float(model([first, *(view.roll(1, 0) for view in others)], progress)["loss"] - own)


def prediction_of_assignments(name: str, folder: Path) -> float:
    """By how many nats the images' loss on test images' views, a cross entropy with assignments, is below the `usage_entropy`.

    No prediction that is the same for every image gets above 0: iBOT's `usage_entropy` is the entropy of the mean assignment, MSN's that
    of the mean prediction, and MSN's assignments use all prototypes equally. The images are ramps, which a small ViT learns in 48 steps;
    of the digits it learns as much in 200.
    """
    settings = {"dataset": ramp_images(), "test_split": None, "epochs": 3, "batch_size": 32, "warmup_epochs": 0}
    recipe = read_recipe(name, settings)
    train(recipe, folder, cpu=True)
    with torch.no_grad():
        out = sslzoo.load(folder).train()(*views_of_test_images(recipe))
    return float(out["usage_entropy"]) * math.log(recipe.method_config().prototypes) - float(out.get("image_loss", out["loss"]))


def views_of_test_images(recipe: Recipe) -> tuple[list[torch.Tensor], Progress]:
    """What a method's forward pass takes, in the first epoch's first step."""
    images = load_images(recipe.dataset, "test", device=torch.device("cpu"))
    (batch,) = images.batches([torch.arange(len(images))])
    render = Renderer(list(recipe.make_views().values()), recipe.seed, mean=recipe.mean, std=recipe.std)
    return render(batch.pixels, batch.sizes, batch.samples, 0), Progress(0, 1, 0, 0, batch.samples)


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
    return str(digits_run("digits/simclr", folder / "simclr", epochs=1).folder)


def read_out(encoder) -> float:
    """Accuracy on the test digits of a linear classifier: ridge regression from standardised features to one-hot labels."""
    (train_rows, train_labels), (test_rows, test_labels) = (extract(encoder, images, Preprocessing(16, 16)) for images in digits())
    mean, deviation = train_rows.mean(0), train_rows.std(0) + 1e-6
    train_rows, test_rows = (F.pad((rows - mean) / deviation, (0, 1), value=1.0).double() for rows in (train_rows, test_rows))
    ridge = train_rows.T @ train_rows + torch.eye(train_rows.shape[1]).double()
    solution = torch.linalg.solve(ridge, train_rows.T @ F.one_hot(train_labels).double())
    return float(((test_rows @ solution).argmax(1) == test_labels).float().mean())
