"""Using trained encoders, ours and others': evaluating them on a data set, or embedding one."""

import hashlib
import json
import logging
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from tqdm import tqdm
from transformers import PreTrainedModel

from sslzoo.accelerator import make_accelerator, on_cpu, to_device
from sslzoo.data import ImageSet, load_images
from sslzoo.encoders import model_folder
from sslzoo.errors import InputError, first_line
from sslzoo.evaluation import (
    Data,
    Preprocessing,
    Session,
    data_facts,
    load_encoder,
    make_data,
    measure,
    protocol_named,
    required_resolution,
    write_features,
)
from sslzoo.files import atomic_write_text
from sslzoo.processes import all_or_none, broadcast_from_main, check_equal, rank
from sslzoo.provenance import code_version, with_provenance
from sslzoo.recipe import Recipe, read_recipe, shipped_recipes
from sslzoo.run import RECIPE, RESULTS, Run
from sslzoo.stopping import TIME_IS_UP, TimeLimit, stopped_by

_NUMBERS = "numbers.json"
_log = logging.getLogger(__name__)


def evaluate(
    name: str, protocols: Sequence[str] | None = None, *, on: str | None = None, train_split: str | None = None,
    test_split: str | None = None, image_column: str | None = None, label_column: str | None = None, cpu: bool = False,
    limit: TimeLimit | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Measures the encoder in a run folder or Hub repository; returns the numbers in the form of results.json.

    protocols: names in `sslzoo.evaluation.PROTOCOLS`; None: those of the recipe next to the weights, or kNN if there is none.
    on: a data set, as for `load_images`, or the name of one with shipped recipes, such as "cifar10"; None: the recipe's.
    Each protocol's numbers are added to a local run folder's results.json as soon as they are measured; if it cannot be written, a warning
    says so. A long measurement that was interrupted is resumed when it is requested again.
    limit: when to save and stop. What was measured before is then kept as well, until all protocols are. Protocols on features embed the
        images of a split in one go.
    Raises `InputError`, and `StoppedError` when the limit or a signal stopped it.
    """
    make_accelerator("fp32", cpu)  # connects the processes, so that from here on errors in one are raised in all
    with all_or_none():
        folder = model_folder(name)
        run, has_recipe = Run(folder), (folder / RECIPE).is_file()
        recipe = run.recipe if has_recipe else None
        if on is None and recipe is None:
            raise InputError(f"{name} has no {RECIPE} that names a data set: choose one with --on")
        protocols = protocols or (recipe or Recipe).protocols
        for protocol in protocols:
            protocol_named(protocol)
        own = recipe if on is None else _recipe_for(on)
    splits = train_split or (own.train_split if own else "train"), test_split or (own and own.test_split) or "test"
    data = load_data(
        folder, own.dataset if own else on, splits, image_column or (own and own.image_column), label_column or (own and own.label_column),
        own and own.canvas, cpu,
    )  # fmt: skip
    seed = recipe.seed if recipe else 0
    states = [_state_folder(folder, data, protocol, seed) for protocol in protocols]
    kept = broadcast_from_main(lambda: [None if limit is None else _read_numbers(state) for state in states])
    numbers, measured = [], False
    for protocol, state, found in zip(protocols, states, kept, strict=True):
        if found is not None:
            numbers += found
            continue
        if limit is not None and measured and not limit.all_allow(0.0):
            raise stopped_by(TIME_IS_UP, f"before {protocol}: the same command continues")
        found, measured = measure_stored(folder, data, protocol, seed, cpu, limit), True
        with all_or_none():
            if rank() == 0:
                if Path(name).is_dir() and (folder / RESULTS).exists():
                    try:
                        run.add_numbers(found)
                    except OSError as error:  # such as a shared, read-only folder
                        _log.warning("the numbers of %s are not stored in %s: %s", protocol, folder / RESULTS, first_line(error))
                if limit is not None:
                    _write_numbers(state, found)
        numbers += found
    if limit is not None and rank() == 0:
        for state in states:
            shutil.rmtree(state, ignore_errors=True)
    facts = data_facts(data)
    if facts["test_images_in_train"]:
        _log.warning("%d of the %d test images are training images too", facts["test_images_in_train"], facts["test_images"])
    return numbers


def load_data(
    folder: Path, dataset: str, splits: tuple[str, str], image_column: str | None, label_column: str | None, canvas: int | None, cpu: bool
) -> Data:
    """Training and test images with the preprocessing of the encoder in `folder`. Called by all processes. Raises `InputError`."""
    device = make_accelerator("fp32", cpu).device
    with all_or_none():
        preprocessing = Preprocessing.read(folder)
        # Images are kept at the resolution that the run was trained with.
        recipe = Run(folder).recipe if (folder / RECIPE).is_file() else None
        views, broken_share = (recipe.make_views().values(), recipe.broken_share) if recipe else ((), Recipe.broken_share)
        train, test = (
            load_images(
                dataset, split, image_column=image_column, label_column=label_column, channels=preprocessing.channels,
                canvas=canvas, resolution=required_resolution(preprocessing, views), device=device, broken_share=broken_share,
            )
            for split in splits
        )  # fmt: skip
    return make_data(train, test, preprocessing)


def measure_stored(
    folder: Path, data: Data, protocol: str, seed: int, cpu: bool, limit: TimeLimit | None = None
) -> list[dict[str, Any]]:  # fmt: skip
    """All numbers of a protocol for the encoder in `folder`, with provenance. Called by all processes.

    The state of an interrupted measurement is kept in the Hub client's cache until it is finished. limit: when to save and stop.
    Raises `InputError`, and `StoppedError` when the limit or a signal stopped it.
    """
    accelerator = make_accelerator("fp32" if on_cpu(cpu) else protocol_named(protocol).precision, cpu)
    state = _state_folder(folder, data, protocol, seed)
    with all_or_none():
        weights = Run(folder).weights_sha256
        encoder = to_device(load_encoder(folder, data.preprocessing), accelerator.device)
    check_equal("the weights", weights)
    with _bar("images", 0, protocol) as bar:
        found = measure(encoder, data, protocol, Session(accelerator, seed, bar, state, limit))
    if accelerator.is_main_process:
        shutil.rmtree(state, ignore_errors=True)
    facts = {**data_facts(data), "precision": protocol_named(protocol).precision_on(accelerator)}
    return with_provenance(found, "last", weights, seed, accelerator.device, facts)


def embed(
    name: str, source: str, output: Path, *, split: str = "train", image_column: str | None = None, label_column: str | None = None,
    patches: bool = False, cpu: bool = False,
) -> int:  # fmt: skip
    """Writes the features of a data set to the Parquet file `output` (see `write_features`); returns the number of rows.

    patches: one feature for each patch of an image, or each place of its last feature map, instead of one for all of it.
    Broken images have no row; warnings name and count them. Raises `InputError`.
    """
    if output.suffix != ".parquet" or not output.absolute().parent.is_dir():
        raise InputError(f"cannot write '{output}': a file name that ends in .parquet, in a folder that exists, is needed")
    encoder, preprocessing, images = load_for_features(name, source, split, image_column, label_column, cpu)
    return write_with_progress(encoder, preprocessing, images, output, patches=patches)


def load_for_features(
    name: str, source: str, split: str, image_column: str | None, label_column: str | None, cpu: bool
) -> tuple[PreTrainedModel, Preprocessing, ImageSet]:  # fmt: skip
    """An encoder on its device, its preprocessing, and images to embed, however many of them are broken. Raises `InputError`."""
    folder = model_folder(name)
    device, preprocessing = make_accelerator("fp32", cpu).device, Preprocessing.read(folder)
    encoder = to_device(load_encoder(folder, preprocessing), device)
    # Each image is read once, so none needs to stay in memory.
    images = load_images(
        source, split, image_column=image_column, label_column=label_column, channels=preprocessing.channels,
        resolution=required_resolution(preprocessing), device=device, budget=0, broken_share=1.0,
    )  # fmt: skip
    return encoder, preprocessing, images


def write_with_progress(
    encoder: PreTrainedModel, preprocessing: Preprocessing, images: ImageSet, output: Path, *, patches: bool = False
) -> int:  # fmt: skip
    """`write_features` with a progress bar and a warning that counts broken images; returns the number of rows."""
    with _bar("images", len(images), output.name) as bar:
        count = write_features(encoder, images, preprocessing, output, patches=patches, done=bar.update)
    if images.skipped:
        _log.warning("%d images of %s cannot be read and have no row", len(images.skipped), images.source)
    return count


def _state_folder(folder: Path, data: Data, protocol: str, seed: int) -> Path:
    """The folder of a measurement's state. Created only by what stores something, as the cache may not be writable."""
    with all_or_none():
        weights = Run(folder).weights_sha256
    key = [protocol, weights, seed, code_version(), data.train.fingerprint, data.test.fingerprint, *map(str, data.preprocessing)]
    return Path(constants.HF_ASSETS_CACHE) / "sslzoo" / "evaluation" / hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]


def _read_numbers(state: Path) -> list[dict[str, Any]] | None:
    """The numbers of a protocol that an earlier call within a time limit has measured; None where there are none."""
    try:
        return json.loads((state / _NUMBERS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _write_numbers(state: Path, numbers: list[dict[str, Any]]) -> None:
    """Keeps the numbers for the next call. A full disk costs a warning."""
    try:
        state.mkdir(parents=True, exist_ok=True)
        atomic_write_text(state / _NUMBERS, json.dumps(numbers))
    except OSError as error:
        _log.warning("numbers are not kept in %s: %s", state, first_line(error))


def _recipe_for(dataset: str) -> Recipe | None:
    """A shipped recipe for the data set of this name, for its columns and splits; None if there is none, or a path of this name exists."""
    files = [file for name, file in shipped_recipes().items() if name.partition("/")[0] == dataset]
    return read_recipe(files[0]) if files and not Path(dataset).exists() else None


def _bar(unit: str, total: int, what: str) -> tqdm:
    return tqdm(total=total, unit=unit, desc=what, disable=not sys.stderr.isatty())
