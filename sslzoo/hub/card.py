"""Writes the model card, README.md, from the run folder and the method's source file alone."""

import inspect
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from sslzoo.data import EMBEDDED, hub_id, source_name
from sslzoo.encoders import has_pooler, read_config
from sslzoo.errors import InputError, first_line
from sslzoo.files import atomic_write_text
from sslzoo.method_files import read_block
from sslzoo.methods import method_class
from sslzoo.optim import peak_lr
from sslzoo.paper import Reported
from sslzoo.recipe import Recipe
from sslzoo.run import CARD, Run

from .curves import draw_curves, has_curves
from .feature_maps import draw_maps
from .imported_card import imported_metadata, imported_values
from .integrity import check_regular_files, has_small_stem
from .listing import REPO_ID, cards_folder
from .markdown import one_line, render
from .metadata import card_metadata
from .neighbours import draw_neighbours
from .pictures import CURVES, MAPS, NEIGHBOURS, drawn_with
from .results_table import format_count, format_percent, headline, metric_name, provenance_lines, results_table, seeds_of
from .results_validation import check_measured_on, checked_imported, checked_numbers, checked_training, is_imported
from .seeds import add_seeds

_FEW_IMAGES = 10_000  # training images; below, the card says that they are few
_SMALL_STEM_INITIALISATION = (
    "transformers' own, whose convolutions start about 2.45 times as large as in the reference page's CIFAR code "
    "(no difference in kNN was seen in five epochs)"
)
_log = logging.getLogger(__name__)


def write_card(
    folder: str | Path, namespace: str = "sslzoo", *, with_images: bool | None = None, seeds: Sequence[str | Path] = ()
) -> Path:  # fmt: skip
    """Writes README.md and the pictures it shows into a run folder; returns its path.

    namespace: of the Hub repository that the card names; the repository has the recipe's name.
    with_images: whether the card shows pictures of images; None: only of the embedded data set and of data sets given as a Hub id, not
        of a local folder or file, which may be private. A picture that the card does not show stays in the folder.
    seeds: folders of runs of the same recipe with other seeds, whose numbers are added to the run's (see `add_seeds`).
    The curves are always drawn, the pictures of images only if the existing ones were drawn with other weights. If the data set cannot
    be loaded, the card has no such pictures and a warning is logged. Raises `InputError`, before anything is written, for a folder that
    is not a finished run, holds a link, or has a number that was measured on other weights.
    """
    run = Run(folder)
    check_regular_files(run.folder)
    repository = repository_id(run, namespace)
    pictures: dict[str, bool] = {}
    imported = is_imported(run)
    if not imported:
        checked_training(run)
        recipe, method = run.recipe, read_block(run.folder)["model_type"].removeprefix("sslzoo-")
        if method != recipe.method:
            raise InputError(f"{run.folder}: recipe.yaml says method '{recipe.method}', config.json '{method}': of two different runs")
    weights = run.weights_sha256
    check_measured_on(run, checked_numbers(run), weights)
    try:
        if seeds:
            add_seeds(run, seeds)
        if not imported:
            draw_curves(run)
            pictures = _pictures(run, weights, is_embedded_or_hub_id(run.recipe.dataset) if with_images is None else with_images)
        atomic_write_text(run.folder / CARD, card_text(run, repository, pictures))
    except OSError as error:
        raise InputError(f"cannot write the card into {run.folder}: {first_line(error)}") from error
    return run.folder / CARD


def card_text(run: Run, repository: str, pictures: Mapping[str, bool]) -> str:
    """The card of the folder as it is now. pictures: whether it shows `NEIGHBOURS` and `MAPS`. Raises `InputError`."""
    numbers, weights = checked_numbers(run), run.weights_sha256
    if is_imported(run):
        imported = checked_imported(run)
        metadata = imported_metadata(imported, repository, numbers, weights)
        template, values = "imported.md", imported_values(run, imported, repository, numbers)
    else:
        recipe, training = run.recipe, checked_training(run)
        metadata = card_metadata(recipe, repository, training, numbers, weights)
        shown = {name: pictures.get(name, False) for name in (NEIGHBOURS, MAPS)}
        template, values = "template.md", _values(run, recipe, repository, training, numbers) | {"pictures": shown}
    return f"---\n{metadata.to_yaml()}\n---\n\n{render(cards_folder() / template, values)}"


def is_embedded_or_hub_id(dataset: str) -> bool:
    """Whether it is the embedded data set or has the form of a Hub id; only the Hub knows whether such a data set is public."""
    return dataset == EMBEDDED or hub_id(dataset) is not None


def repository_id(run: Run, namespace: str) -> str:
    """ "namespace/name of the recipe", or the folder's name for imported weights. Raises `InputError` for an invalid one."""
    return checked_repo_id(f"{namespace}/{run.folder.absolute().name if is_imported(run) else run.recipe.name}")


def checked_repo_id(repository: str) -> str:
    """The repository's name, which the Hub accepts and the leaderboard lists. Raises `InputError` for an invalid one."""
    try:
        validate_repo_id(repository)
        reason = "letters, digits, '-', '_' and '.' are allowed"
    except HFValidationError as error:
        reason = first_line(error)
    else:
        if REPO_ID.fullmatch(repository):
            return repository
    raise InputError(f"'{one_line(repository)}' is not a valid name for a Hub repository: {one_line(reason)}")


def _pictures(run: Run, weights_sha256: str, wanted: bool) -> dict[str, bool]:
    """Whether the card shows each picture of images; missing ones, and those drawn with other weights, are drawn now."""
    shown = dict.fromkeys((NEIGHBOURS, MAPS), False)
    if not wanted:
        dataset = source_name(run.recipe.dataset)
        _log.warning("the card of %s shows no images, as '%s' is not known to be public: --with-images shows them", run.folder, dataset)
        return shown
    for name, draw in ((NEIGHBOURS, draw_neighbours), (MAPS, draw_maps)):
        file = run.folder / name
        if drawn_with(file) != weights_sha256:
            file.unlink(missing_ok=True)
            try:
                draw(run.folder, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
            except (InputError, OSError) as error:  # most likely from the data set, which the next picture would need as well
                missing = " and ".join(name for name, is_shown in shown.items() if not is_shown)
                _log.warning("the card of %s has no %s: %s", run.folder, missing, first_line(error))
                break
        shown[name] = True
    return shown


def _values(run: Run, recipe: Recipe, repository: str, training: dict[str, Any], numbers: list[dict[str, Any]]) -> dict[str, Any]:
    method = method_class(recipe.method)
    idea = (inspect.getmodule(method).__doc__ or method.__name__).strip().splitlines()[0]
    dataset = hub_id(recipe.dataset)
    return {
        "name": recipe.name, "repository": repository, "method": recipe.method, "class_name": method.__name__, "idea": idea,
        "paper": method.paper, "encoder": recipe.encoder_name,
        "dataset": source_name(recipe.dataset), "dataset_id": dataset[0] if dataset else None,
        "embedded": recipe.dataset == EMBEDDED, "local": dataset is None and recipe.dataset != EMBEDDED,
        "small_stem": has_small_stem(run.folder), "pooler": has_pooler(read_config(run.folder)),
        "image_size": recipe.image_size, "channels": recipe.channels, "preprocessing": recipe.preprocessing,
        "curves": CURVES if has_curves(run) else None, "neighbours": NEIGHBOURS, "maps": MAPS,
        "images": format_count(training["images"]),
        "few": training["images"] < _FEW_IMAGES, "rows": results_table(numbers, recipe), "headline": headline(numbers, recipe),
        "seeds": seeds_of(numbers, recipe.seed),
        "details": _details(run, recipe, training),
        "provenance": provenance_lines(numbers), "reported": [_reported(row) for row in method.reported],
        "shared": format_count(max((number["provenance"].get("test_images_in_train") or 0 for number in numbers), default=0) or None, ""),
        "measured": list(dict.fromkeys((source_name(number["dataset"]), number["split"]) for number in numbers)),
    }  # fmt: skip


def _reported(row: Reported) -> dict[str, str]:
    source = f"[{row.source}](https://github.com/{row.source})" if "/" in row.source else row.source
    return {
        "metric": metric_name(row.metric), "value": format_percent(row.value), "encoder": row.encoder, "source": source,
        "epochs": "not stated" if row.epochs is None else str(row.epochs),
        "batch_size": "not stated" if row.batch_size is None else str(row.batch_size),
    }  # fmt: skip


def _details(run: Run, recipe: Recipe, training: dict[str, Any]) -> dict[str, str]:
    peak = peak_lr(recipe.lr, recipe.lr_scaling, recipe.batch_size)
    environment, processes = training["environment"], training["processes"]
    versions = ", ".join(f"{name} {version}" for name, version in environment.items() if name != "hardware")
    # Only the small-image ResNets are compared with code that initialises its convolutions differently.
    initialisation = {"Initialisation": _SMALL_STEM_INITIALISATION} if has_small_stem(run.folder) else {}
    resumed = {"Changed on the way": "; ".join(training["resumed"])} if training.get("resumed") else {}
    return {
        "Data set": f"{source_name(recipe.dataset)}, split {recipe.train_split}: {format_count(training['images'])} images",
        "Broken images left out": format_count(len(training["skipped_images"])),
        "Encoder": f"{recipe.encoder_name} for {recipe.image_size} px" + (f", {recipe.channels} channels" if recipe.channels != 3 else ""),
        **initialisation,
        **_start(run, recipe),
        **_teacher(recipe),
        "Method's settings": ", ".join(f"{key}={value}" for key, value in recipe.hyperparameters.items()) or "those of its configuration",
        "Epochs": f"{recipe.epochs}",
        **resumed,
        "Batch size": f"{recipe.batch_size} images" + (f" in {recipe.accumulate} micro-batches" if recipe.accumulate > 1 else ""),
        "Optimiser": f"{recipe.optimizer}, weight decay {recipe.weight_decay:g}"
        + ("" if recipe.weight_decay_end is None else f" to {recipe.weight_decay_end:g}"),
        "Learning rate": f"{peak:g} at its peak, schedule {recipe.schedule}, {recipe.warmup_epochs:g} epochs of warm-up",
        "Precision": recipe.precision,
        "Seed": f"{recipe.seed}",
        "Hardware": f"{environment['hardware']}" + (f", {processes} processes" if processes > 1 else ""),
        "Time": f"{_duration(training['seconds'])}, {training['images_per_second']:,.0f} images/s while training",
        "Peak memory": f"{training['peak_memory_bytes'] / 2**30:.2f} GiB",
        "Software": versions or "not recorded",
    }


def _start(run: Run, recipe: Recipe) -> dict[str, str]:
    """What the training started from, and what it changed."""
    if recipe.init_from is None:
        return {}
    key = "knn_top1 k=20 T=0.1"
    measured = [(line["step"], line[key]) for line in run.metrics() if key in line]
    gain = {}
    if measured and measured[0][0] == 0:
        gain = {"kNN top-1 (k=20, T=0.1)": f"before {100 * measured[0][1]:.1f} %, after {100 * measured[-1][1]:.1f} %"}
    adapted = {"First convolution": recipe.adaptation} if recipe.adaptation else {}
    return {"Starts from": f"{source_name(recipe.init_from)}, SHA-256 {recipe.init_sha256}", **adapted, **gain}


def _teacher(recipe: Recipe) -> dict[str, str]:
    if recipe.teacher is None:
        return {}
    license = recipe.teacher_license or "not stated"
    return {"Teacher": f"{source_name(recipe.teacher)}, SHA-256 {recipe.teacher_sha256}, licence {license}"}


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
