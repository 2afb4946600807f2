"""The files of a run folder that are published, what each one reveals, and the check that none names a place on this machine."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sslzoo.data import source_name
from sslzoo.errors import InputError
from sslzoo.method_files import HEADS
from sslzoo.recipe import published_text
from sslzoo.run import CARD, CONFIG, METRICS, PREPROCESSOR, RECIPE, RESULTS, WEIGHTS, Run

from .integrity import CODE_FILES, has_small_stem
from .pictures import CURVES, IMAGES_SHOWN, MAPS, NEIGHBOURS
from .results_validation import checked_imported, is_imported

WITHHELD = "name not published"  # replaces the name of an image that was left out: a file's name may reveal more than the image


class PublishedFile(NamedTuple):
    """A file of the repository."""

    content: Path | bytes
    reveals: str  # in a few words

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size


def required_files(run: Run) -> list[str]:
    """The files that a run folder must hold to be published; fewer for imported weights. Raises `InputError`."""
    names = [CONFIG, WEIGHTS, PREPROCESSOR, RESULTS]
    if not is_imported(run):
        names += [HEADS, RECIPE, METRICS]
    return [*names, *(CODE_FILES if (run.folder / CONFIG).is_file() and has_small_stem(run.folder) else ())]


def published_files(run: Run, *, public: bool) -> dict[str, PublishedFile]:
    """The repository's files by name; the card must be written already. public: whether anyone may see the training data.

    Raises `InputError` where a file names a place on this machine.
    """
    card = (run.folder / CARD).read_text(encoding="utf-8")
    names = [*required_files(run), CARD, *(name for name in (CURVES, NEIGHBOURS, MAPS) if f"]({name})" in card)]
    reveals = _reveals(run, public)
    files: dict[str, PublishedFile] = {name: PublishedFile(run.folder / name, reveals[name]) for name in names}
    if RECIPE in files:
        files[RECIPE] = PublishedFile(published_text(run.recipe_file).encode(), reveals[RECIPE])
    results = run.results()
    if not public and results["training"].get("skipped_images"):
        results["training"]["skipped_images"] = [WITHHELD] * len(results["training"]["skipped_images"])
        files[RESULTS] = PublishedFile((json.dumps(results, indent=2, allow_nan=False) + "\n").encode(), reveals[RESULTS])
    for name, file in files.items():
        if not name.endswith((".safetensors", ".png")):
            _check_no_local_paths(run, name, file)
    return files


def _reveals(run: Run, public: bool) -> dict[str, str]:
    results = run.results()
    recipe = None if is_imported(run) else run.recipe
    dataset = source_name(recipe.dataset) if recipe else ""
    measured = sorted({source_name(number["dataset"]) for number in results["numbers"]})
    columns = [column for column in (recipe and recipe.image_column, recipe and recipe.label_column) if column]
    columns += [column for number in results["numbers"] for column in _columns(number) if column not in columns]
    skipped = len(results["training"].get("skipped_images", ()))
    source = f", and the weights' source, '{checked_imported(run)['source']}'" if is_imported(run) else ""
    broken = f", {skipped} names of images that were left out" if public and skipped else ""
    dataset_and_columns = f"'{dataset}'" + (f" and of its columns {', '.join(map(repr, dict.fromkeys(columns)))}" if columns else "")
    return {
        CONFIG: "the configuration of encoder and method", WEIGHTS: "the encoder's weights", HEADS: "the weights of the rest of the method",
        PREPROCESSOR: "how images are prepared", RECIPE: f"every setting of the run, and the name of the data set, {dataset_and_columns}",
        METRICS: "loss, learning rate and accuracies over the steps",
        RESULTS: f"the numbers on {' and '.join(map(repr, measured)) or 'no data set'}, time, hardware and versions{broken}{source}",
        **dict.fromkeys(CODE_FILES, "the ResNet stem for small images, for users without sslzoo"),
        CARD: "the card, written anew; edits by hand are overwritten", CURVES: "the curves of the training",
        NEIGHBOURS: f"{IMAGES_SHOWN[NEIGHBOURS]} images of {dataset} and the names of their classes",
        MAPS: f"{IMAGES_SHOWN[MAPS]} images of {dataset} and maps of their features",
    }  # fmt: skip


def _columns(number: dict) -> Iterator[str]:
    read_as = number["provenance"].get("read_as") or {}
    yield from (str(read_as[key]) for key in ("image_column", "label_column") if read_as.get(key))


def _check_no_local_paths(run: Run, name: str, file: PublishedFile) -> None:
    paths = [Path.home(), run.folder.absolute(), run.folder.resolve()]
    if not is_imported(run):
        dataset = Path(run.recipe.dataset).expanduser()
        paths += [dataset.absolute()] if dataset.exists() or dataset.is_absolute() else []
    content = file.content if isinstance(file.content, bytes) else file.content.read_bytes()
    for path in paths:
        if len(path.parts) > 1 and str(path).encode() in content:
            raise InputError(f"{run.folder / name} names a place on this machine, '{path}': remove it before publishing")
