"""The model card: README.md, made from the run folder and the method's file alone."""

import inspect
import logging
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from sslzoo.data import EMBEDDED, hub_id, source_name
from sslzoo.encoders import read_config
from sslzoo.errors import InputError, first_line
from sslzoo.files import write_whole
from sslzoo.method import Reported, read_block
from sslzoo.methods import method_class
from sslzoo.optim import peak_lr
from sslzoo.recipe import Recipe
from sslzoo.run import CARD, RESULTS, Run

from .imported_card import imported_metadata, imported_values
from .leaderboard import cards_folder
from .markdown import render
from .metadata import card_metadata
from .numbers import checked_numbers, count, metric_name, percent, provenance_lines, table
from .pictures import CURVES, MAPS, NEIGHBOURS, draw_curves, draw_maps, draw_neighbours, drawn_from

SMALL_STEM = "sslzoo_resnet"  # the model type that plain transformers does not know
_SMALL = 10_000  # training images; below, the card says that they are few
_TRAINING = {
    "images": int, "skipped_images": list, "seconds": (int, float), "images_per_second": (int, float), "peak_memory_bytes": int,
    "processes": int, "environment": dict,
}  # fmt: skip


def write_card(folder: str | Path, namespace: str = "sslzoo") -> Path:
    """Writes README.md and the pictures it shows into a run folder; returns its path.

    namespace: of the Hub repository that the card names, which is called as the recipe is.
    The curves are drawn each time, the pictures of images when the weights are others than those they were drawn with. A data set that
    cannot be loaded costs these pictures and a warning. Raises `InputError`, before anything is written, when the folder is not that of
    a finished run or holds a number that was measured on other weights.
    """
    run = Run(folder)
    repository = repository_id(run, namespace)
    if "imported" in run.results():
        weights = run.weights_sha256
        numbers = checked_numbers(run, weights)
        _write(run, imported_metadata(run, repository, numbers, weights), "imported.md", imported_values(run, repository, numbers))
        return run.folder / CARD
    recipe, training = run.recipe, _training(run)
    method = read_block(run.folder)["model_type"].removeprefix("sslzoo-")
    if method != recipe.method:
        raise InputError(f"{run.folder}: recipe.yaml says method '{recipe.method}', config.json '{method}': they are not of one run")
    weights = run.weights_sha256
    numbers = checked_numbers(run, weights)
    draw_curves(run)
    values = _values(run, recipe, repository, training, numbers) | {"pictures": _pictures(run, weights)}
    _write(run, card_metadata(recipe, repository, training, numbers, weights), "template.md", values)
    return run.folder / CARD


def repository_id(run: Run, namespace: str) -> str:
    """ "namespace/name of the recipe", of imported weights the folder's name. Raises `InputError` for what cannot be one."""
    repository = f"{namespace}/{run.folder.absolute().name if 'imported' in run.results() else run.recipe.name}"
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise InputError(f"'{repository}' is no name for a Hub repository: {first_line(error)}") from error
    return repository


def _write(run: Run, metadata: ModelCardData, template: str, values: dict[str, Any]) -> None:
    write_whole(run.folder / CARD, f"---\n{metadata.to_yaml()}\n---\n\n{render(cards_folder() / template, values)}")


def _training(run: Run) -> dict[str, Any]:
    training = run.results()["training"]
    for key, kind in _TRAINING.items():
        if not isinstance(training.get(key), kind):
            state = f"its 'training' has no usable '{key}'" if training else "the training has not finished"
            raise InputError(f"{run.folder / RESULTS}: {state}: train (or --resume) first")
    if "hardware" not in training["environment"]:
        raise InputError(f"{run.folder / RESULTS}: its 'training' names no hardware: train again")
    return training


def _pictures(run: Run, weights_sha256: str) -> dict[str, bool]:
    """Whether there is each picture of images, made by these weights; drawn now where it was not there."""
    there = dict.fromkeys((NEIGHBOURS, MAPS), False)
    for name, draw in ((NEIGHBOURS, draw_neighbours), (MAPS, draw_maps)):
        file = run.folder / name
        if drawn_from(file) != weights_sha256:
            file.unlink(missing_ok=True)
            try:
                draw(run.folder, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
            except (InputError, OSError) as error:  # most likely of the data set, which the next one would need as well
                without = " and ".join(name for name, drawn in there.items() if not drawn)
                logging.getLogger(__name__).warning("the card of %s gets no %s: %s", run.folder, without, first_line(error))
                break
        there[name] = True
    return there


def _values(run: Run, recipe: Recipe, repository: str, training: dict[str, Any], numbers: list[dict[str, Any]]) -> dict[str, Any]:
    method = method_class(recipe.method)
    idea = (inspect.getmodule(method).__doc__ or method.__name__).strip().splitlines()[0]
    dataset = hub_id(recipe.dataset)
    return {
        "name": recipe.name, "repository": repository, "method": recipe.method, "class_name": method.__name__, "idea": idea,
        "paper": method.paper, "encoder": recipe.encoder,
        "dataset": source_name(recipe.dataset), "dataset_id": dataset[0] if dataset else None,
        "embedded": recipe.dataset == EMBEDDED, "local": dataset is None and recipe.dataset != EMBEDDED,
        "small_stem": read_config(run.folder).get("model_type") == SMALL_STEM,
        "image_size": recipe.image_size, "curves": CURVES, "neighbours": NEIGHBOURS, "maps": MAPS, "images": count(training["images"]),
        "few": training["images"] < _SMALL, "rows": table(numbers, recipe), "details": _details(recipe, training),
        "provenance": provenance_lines(numbers), "reported": [_reported(row) for row in method.reported],
        "shared": count(max((number["provenance"].get("test_images_in_train") or 0 for number in numbers), default=0) or None, ""),
        "measured": list(dict.fromkeys((source_name(number["dataset"]), number["split"]) for number in numbers)),
    }  # fmt: skip


def _reported(row: Reported) -> dict[str, str]:
    source = f"[{row.source}](https://github.com/{row.source})" if "/" in row.source else row.source
    return {
        "metric": metric_name(row.metric), "value": percent(row.value), "encoder": row.encoder, "source": source,
        "epochs": "not stated" if row.epochs is None else str(row.epochs),
        "batch_size": "not stated" if row.batch_size is None else str(row.batch_size),
    }  # fmt: skip


def _details(recipe: Recipe, training: dict[str, Any]) -> dict[str, str]:
    peak = peak_lr(recipe.lr, recipe.lr_scaling, recipe.batch_size)
    environment, processes = training["environment"], training["processes"]
    versions = ", ".join(f"{name} {environment[name]}" for name in ("python", "torch", "transformers") if name in environment)
    return {
        "Data set": f"{source_name(recipe.dataset)}, split {recipe.train_split}: {count(training['images'])} images",
        "Broken images left out": count(len(training["skipped_images"])),
        "Encoder": f"{recipe.encoder} for {recipe.image_size} px",
        "Method's settings": ", ".join(f"{key}={value}" for key, value in recipe.hyperparameters.items()) or "those of its configuration",
        "Epochs": f"{recipe.epochs}",
        "Batch size": f"{recipe.batch_size} images" + (f" in {recipe.accumulate} micro-batches" if recipe.accumulate > 1 else ""),
        "Optimiser": f"{recipe.optimizer}, weight decay {recipe.weight_decay:g}",
        "Learning rate": f"{peak:g} at its peak, schedule {recipe.schedule}, {recipe.warmup_epochs:g} epochs of warm-up",
        "Precision": recipe.precision,
        "Seed": f"{recipe.seed}",
        "Hardware": f"{environment['hardware']}" + (f", {processes} processes" if processes > 1 else ""),
        "Time": f"{_duration(training['seconds'])}, {training['images_per_second']:,.0f} images/s while training",
        "Peak memory": f"{training['peak_memory_bytes'] / 2**30:.2f} GiB",
        "Software": versions or "not recorded",
    }


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
