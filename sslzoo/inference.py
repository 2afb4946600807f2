"""Trained encoders at work, ours and others': measured on a data set, or embedding one."""

import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tqdm import tqdm

from sslzoo.data import load_images
from sslzoo.encoders import load_stored, model_folder
from sslzoo.errors import InputError
from sslzoo.evaluation import Preprocessing, measure, write_features
from sslzoo.run import RECIPE, RESULTS, Run, provenance, with_provenance


def evaluate(
    name: str, protocol: str, *, on: str | None = None, train_split: str | None = None, test_split: str | None = None,
    image_column: str | None = None, label_column: str | None = None, cpu: bool = False,
) -> list[dict[str, Any]]:  # fmt: skip
    """Measures the encoder in a run folder or Hub repository; returns the numbers as results.json holds them.

    on: a data set, as `load_images` takes it; None: the one of the recipe that lies beside the weights. A local run folder's results.json
    gets the numbers. Raises `InputError`.
    """
    folder = model_folder(name)
    run, has_recipe = Run(folder), (folder / RECIPE).is_file()
    if on is None and not has_recipe:
        raise InputError(f"{name} has no {RECIPE} that would name a data set: say which with --on")
    recipe = run.recipe if has_recipe else None
    own = recipe if on is None else None
    accelerator = Accelerator(cpu=cpu or not torch.accelerator.is_available())
    splits = (train_split or (own.train_split if own else "train"), test_split or (own and own.test_split) or "test")
    train, test = (
        load_images(
            on or own.dataset, split, image_column=image_column or (own and own.image_column),
            label_column=label_column or (own and own.label_column), canvas=own and own.canvas, device=accelerator.device,
        )
        for split in splits
    )  # fmt: skip
    encoder = load_stored(folder).to(accelerator.device)
    with _bar("images", len(train) + len(test)) as bar:
        found = measure(encoder, train, test, Preprocessing.read(folder), protocol, done=bar.update)
    numbers = with_provenance(found, "last", provenance(accelerator.device, run.weights_sha256, recipe and recipe.seed))
    if accelerator.is_main_process and Path(name).is_dir() and (folder / RESULTS).exists():
        run.add_numbers(numbers)
    return numbers


def embed(
    name: str, source: str, output: Path, *, split: str = "train", image_column: str | None = None, cpu: bool = False
) -> int:
    """Writes the features of a data set to the Parquet file `output` (see `write_features`); returns the number of images."""
    if output.suffix != ".parquet" or not output.absolute().parent.is_dir():
        raise InputError(f"cannot write '{output}': a file name that ends in .parquet, in a folder that exists, is needed")
    folder = model_folder(name)
    device = Accelerator(cpu=cpu or not torch.accelerator.is_available()).device
    images = load_images(source, split, image_column=image_column, device=device)
    encoder = load_stored(folder).to(device)
    with _bar("images", len(images)) as bar:
        return write_features(encoder, images, Preprocessing.read(folder), output, done=bar.update)


def _bar(unit: str, total: int) -> tqdm:
    return tqdm(total=total, unit=unit, disable=not sys.stderr.isatty())
