"""What of a run folder is uploaded, and what each file shows: nothing tells where things lie or how files of private data are called."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sslzoo.data import source_name
from sslzoo.errors import InputError
from sslzoo.method import HEADS
from sslzoo.recipe import recipe_text
from sslzoo.run import CARD, CONFIG, METRICS, PREPROCESSOR, RECIPE, RESULTS, WEIGHTS, Run

from .card import is_imported
from .fitness import CODE, has_small_stem
from .metadata import eval_results_text
from .pictures import CURVES, IMAGES_SHOWN, MAPS, NEIGHBOURS
from .recorded import checked_imported

EVAL_RESULTS = ".eval_results/sslzoo.yaml"
WITHHELD = "name not published"  # of an image that was left out, whose file's name may say more than the image


class Content(NamedTuple):
    """A file of the repository."""

    data: Path | bytes
    shows: str  # in a few words

    @property
    def size(self) -> int:
        return len(self.data) if isinstance(self.data, bytes) else self.data.stat().st_size


def needed_files(run: Run) -> list[str]:
    """What a run folder must hold to be published; of weights that others trained, less. Raises `InputError`."""
    names = [CONFIG, WEIGHTS, PREPROCESSOR, RESULTS]
    if not is_imported(run):
        names += [HEADS, RECIPE, METRICS]
    return [*names, *(CODE if (run.folder / CONFIG).is_file() and has_small_stem(run.folder) else ())]


def contents(run: Run, repository: str, *, public: bool, eval_results: bool) -> dict[str, Content]:
    """The repository's files of a run whose card is written, by name. public: whether anybody may see the training's data set.

    Raises `InputError` where a file tells of places on this machine.
    """
    card = (run.folder / CARD).read_text(encoding="utf-8")
    names = [*needed_files(run), CARD, *(name for name in (CURVES, NEIGHBOURS, MAPS) if f"]({name})" in card)]
    shown = _shown(run, public)
    files: dict[str, Content] = {name: Content(run.folder / name, shown[name]) for name in names}
    if RECIPE in files:
        files[RECIPE] = Content(recipe_text(run.recipe.public()).encode(), shown[RECIPE])
    results = run.results()
    if not public and results["training"].get("skipped_images"):
        results["training"]["skipped_images"] = [WITHHELD] * len(results["training"]["skipped_images"])
        files[RESULTS] = Content((json.dumps(results, indent=2, allow_nan=False) + "\n").encode(), shown[RESULTS])
    if eval_results:
        files[EVAL_RESULTS] = Content(
            eval_results_text(repository, results["numbers"]).encode(), "the numbers on data sets of the Hub, for its benchmarks"
        )
    for name, content in files.items():
        if not name.endswith((".safetensors", ".png")):
            _check_places(run, name, content)
    return files


def _shown(run: Run, public: bool) -> dict[str, str]:
    results = run.results()
    recipe = None if is_imported(run) else run.recipe
    own = source_name(recipe.dataset) if recipe else ""
    measured = sorted({source_name(number["dataset"]) for number in results["numbers"]})
    columns = [column for column in (recipe and recipe.image_column, recipe and recipe.label_column) if column]
    columns += [column for number in results["numbers"] for column in _columns(number) if column not in columns]
    skipped = len(results["training"].get("skipped_images", ()))
    source = f", and the weights' source, '{checked_imported(run)['source']}'" if is_imported(run) else ""
    broken = f", {skipped} names of images that were left out" if public and skipped else ""
    named = f"'{own}'" + (f" and of its columns {', '.join(map(repr, dict.fromkeys(columns)))}" if columns else "")
    return {
        CONFIG: "what the encoder and the method are", WEIGHTS: "the encoder's weights", HEADS: "the weights of the rest of the method",
        PREPROCESSOR: "how images are prepared", RECIPE: f"every setting of the run, and the name of the data set, {named}",
        METRICS: "loss, learning rate and accuracies over the steps",
        RESULTS: f"the numbers on {' and '.join(map(repr, measured)) or 'no data set'}, time, hardware and versions{broken}{source}",
        **dict.fromkeys(CODE, "the small-image stem, for those without sslzoo"),
        CARD: "the card, made anew; what was written into it by hand is gone", CURVES: "the curves of the training",
        NEIGHBOURS: f"{IMAGES_SHOWN[NEIGHBOURS]} images of {own} and the names of their classes",
        MAPS: f"{IMAGES_SHOWN[MAPS]} images of {own} and maps of their features",
    }  # fmt: skip


def _columns(number: dict) -> Iterator[str]:
    read_as = number["provenance"].get("read_as") or {}
    yield from (str(read_as[key]) for key in ("image_column", "label_column") if read_as.get(key))


def _check_places(run: Run, name: str, content: Content) -> None:
    places = [Path.home(), run.folder.absolute(), run.folder.resolve()]
    if not is_imported(run):
        dataset = Path(run.recipe.dataset).expanduser()
        places += [dataset.absolute()] if dataset.exists() or dataset.is_absolute() else []
    data = content.data if isinstance(content.data, bytes) else content.data.read_bytes()
    for place in places:
        if len(place.parts) > 1 and str(place).encode() in data:
            raise InputError(f"{run.folder / name} tells of a place on this machine, '{place}': take it out before it is published")
