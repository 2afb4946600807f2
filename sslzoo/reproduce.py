"""Measures again what a run folder or Hub repository claims, and compares its files, its card and its numbers."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from sslzoo.accelerator import make_accelerator
from sslzoo.data import EMBEDDED, ImageSet, hub_id, source_name
from sslzoo.encoders import model_folder
from sslzoo.errors import InputError
from sslzoo.evaluation import data_facts, protocol_named
from sslzoo.hub import check_card, metric_label
from sslzoo.hub.integrity import (
    CODE_FILES,
    check_regular_files,
    code_differences,
    configuration_differences,
    has_small_stem,
    recorded_digests,
)
from sslzoo.hub.pictures import CURVES
from sslzoo.hub.published_files import WITHHELD
from sslzoo.hub.results_validation import checked_metrics, checked_numbers, checked_training, is_imported
from sslzoo.hub.validation import UntrustedMapping, is_number
from sslzoo.inference import load_data, measure_stored
from sslzoo.processes import all_or_none, check_equal
from sslzoo.provenance import identity
from sslzoo.recipe import is_as_written
from sslzoo.run import CARD, RECIPE, RESULTS, Run
from sslzoo.training.knn_evaluation import knn_key

EQUAL, WITHIN_TOLERANCE, DIFFERENT, NOT_REPEATABLE = "equal", "within tolerance", "different", "cannot be repeated"


class Finding(NamedTuple):
    """One claim: what it is about, the claimed value, the value found now, and the verdict, one of the four constants above."""

    what: str
    claimed: Any
    found: Any
    verdict: str


def reproduce(name: str, on: Sequence[str] = (), *, cpu: bool = False) -> list[Finding]:
    """Checks every claim of a run folder or Hub repository, and measures every number of its weights again.

    Files are compared with the digests that the training or import recorded, the small-image stem's code and the configuration with
    what sslzoo writes, the card with the one that the folder gives, and what results.json records of the training with metrics.jsonl
    and the recipe.
    Data sets are compared by fingerprint. Numbers of the weights are measured again by the same protocol, within its tolerance; those of
    earlier epochs, whose weights are not kept, are compared with metrics.jsonl. What was recorded once and cannot be derived (time,
    memory, hardware, versions, dates) is compared with the card only.

    on: data sets at another place than the claim names, each with the same last part of its name as the one that it replaces.
    Raises `InputError` for a folder that claims nothing, and for a data set that is not found.
    """
    make_accelerator("fp32", cpu)  # connects the processes: from here on, an error of one is raised in all
    with all_or_none():
        folder = model_folder(name)
        check_regular_files(folder, links=True)  # the Hub's cache consists of links
        run, repository = Run(folder), None if Path(name).expanduser().is_dir() else name
        numbers = checked_numbers(run)
        if not numbers:
            raise InputError(f"{name} claims no numbers: its {RESULTS} has none")
        training = {} if is_imported(run) else checked_training(run)
        if repository and has_small_stem(folder):
            _download_code(repository, folder)
        findings = [*_check_files(run, training), *_check_card(run, repository)]
        last = [number for number in numbers if number["when"] == "last"]
    check_equal("the numbers", last)
    findings += _measure_again(folder, run, last, on, cpu)
    return [*findings, *_other_seeds(last), *_check_best(run, [number for number in numbers if number["when"] == "best"])]


def _download_code(repository: str, folder: Path) -> None:
    """Downloads the repository's Python files, which are never run here, to the other files of the commit in `folder`."""
    for file in CODE_FILES:
        try:
            hf_hub_download(repository, file, revision=folder.name)
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError):
            continue  # `code_differences` reports it as missing


def _check_files(run: Run, training: dict[str, Any]) -> Iterator[Finding]:
    for difference in code_differences(run.folder):
        yield _exact(difference.what, difference.found, difference.expected)
    claimed, found = recorded_digests(run), run.digests()
    for file in {**claimed, **found}:
        yield _exact(file, claimed.get(file), found.get(file))
    if not training:  # imported weights, which were not trained here
        return
    yield _exact(f"{RECIPE} as it was written", True, is_as_written(run.recipe_file))
    for difference in configuration_differences(run):
        yield _exact(difference.what, difference.found, difference.expected)
    steps, recipe = training.get("steps"), run.recipe
    yield _exact("training: steps, of images, batch size and epochs", steps, training["images"] // recipe.batch_size * recipe.epochs)
    yield _exact("training: steps, the last in metrics.jsonl", steps, max(line["step"] for line in checked_metrics(run)))


def _check_card(run: Run, repository: str | None) -> Iterator[Finding]:
    if (run.folder / CARD).is_file():
        for comparison in check_card(run, repository):
            yield _exact(comparison.what, comparison.found, comparison.expected)
    elif repository or (run.folder / CURVES).is_file():
        yield Finding(CARD, "a card", None, DIFFERENT)
    else:
        yield Finding(f"{CARD}, which was never written or is gone (`sslzoo card` writes it)", None, None, NOT_REPEATABLE)


def _measure_again(folder: Path, run: Run, numbers: list[dict[str, Any]], on: Sequence[str], cpu: bool) -> Iterator[Finding]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for number in numbers:
        # One measurement gives every number of a protocol on a data set.
        provenance = UntrustedMapping(number["provenance"], f"{folder / RESULTS}: {metric_label(number)}: 'provenance'")
        splits = provenance.text("train_split", None), number["split"]
        key = str([number["protocol"], number["dataset"], *splits, provenance.integer("seed", 0, 2**63 - 1)])
        groups.setdefault(key, []).append(number)
    for group in groups.values():
        protocol, provenance = group[0]["protocol"], group[0]["provenance"]
        with all_or_none():
            dataset, read_as = _find_dataset(group[0]["dataset"], run, on), provenance.get("read_as") or {}
        splits = provenance["train_split"], group[0]["split"]
        data = load_data(folder, dataset, splits, read_as.get("image_column"), read_as.get("label_column"), read_as.get("canvas"), cpu)
        again = {identity(number): number for number in measure_stored(folder, data, protocol, provenance["seed"], cpu)}
        facts = data_facts(data)  # after measuring, which reads the images
        for number in group:
            for fact, found in facts.items():
                claimed = number["provenance"].get(fact)
                if fact in ("train_images", "test_images"):
                    found = _image_count(claimed, data.train if fact == "train_images" else data.test)
                if number is group[0] or claimed != found:
                    yield _exact(f"{number['dataset']}: {fact}", claimed, found)
        for weights in {number["provenance"].get("weights_sha256") for number in group}:
            yield _exact(f"{group[0]['dataset']}: weights that {protocol} was measured on", weights, run.weights_sha256)
        yield from _check_training_images(run, data.train)
        for number in group:
            what, found = f"{metric_label(number)}, {number['dataset']} {number['split']}, {protocol}", again.get(identity(number))
            yield _close(what, number["value"], found and found["value"], protocol_named(protocol).tolerance)


def _check_training_images(run: Run, images: ImageSet) -> Iterator[Finding]:
    """What results.json records of the training images, if `images` are those."""
    if not (run.folder / RECIPE).is_file():
        return
    recipe, training = run.recipe, run.results()["training"]
    read_as = {"image_column": recipe.image_column, "label_column": recipe.label_column, "canvas": recipe.canvas}
    if source_name(images.source) == source_name(recipe.dataset) and images.split == recipe.train_split and images.read_as == read_as:
        claimed, found = training["images"], _image_count(training["images"], images)
        yield _exact(f"training: images of {source_name(recipe.dataset)}", claimed, found)
        claimed = training["skipped_images"]
        found = [WITHHELD] * len(images.skipped) if WITHHELD in claimed else images.skipped
        yield _exact("training: skipped_images", claimed, found)


def _image_count(claimed: int | None, images: ImageSet) -> int:
    """The number of images, with or without the broken ones: the claim depends on whether they fit that machine's memory."""
    with_broken = len(images) + (len(images.skipped) if images.resident else 0)
    return claimed if claimed in (with_broken, with_broken - len(images.skipped)) else len(images)


def _find_dataset(dataset: str, run: Run, on: Sequence[str]) -> str:
    """Path or Hub id of a claim's data set. Raises `InputError`."""
    recipe_dataset = [run.recipe.dataset] if (run.folder / RECIPE).is_file() else []
    for candidate in (*on, *recipe_dataset, dataset):
        exists = candidate == EMBEDDED or hub_id(candidate) or Path(candidate).exists()
        if source_name(candidate) == source_name(dataset) and exists:
            return candidate
    raise InputError(
        f"numbers were measured on '{dataset}', which is neither on this machine nor on the Hub: name your copy, --on .../{dataset}"
    )


def _other_seeds(numbers: list[dict[str, Any]]) -> Iterator[Finding]:
    """What runs with other seeds gave, whose weights are not here."""
    for number in numbers:
        for other in number.get("other_seeds", ()):
            what = f"{metric_label(number)}, {number['dataset']} {number['split']}, {number['protocol']}, seed {other['seed']}"
            yield Finding(f"{what}, whose weights are not here", other["value"], None, NOT_REPEATABLE)


def _check_best(run: Run, numbers: list[dict[str, Any]]) -> Iterator[Finding]:
    """The best epoch's numbers against what metrics.jsonl logged for that epoch."""
    lines = [line for line in checked_metrics(run) if "epoch" in line] if numbers else []  # the untrained encoder's line has no epoch
    for number in numbers:
        arguments, key = number["arguments"], knn_key(number)
        logged = [line[key] for line in lines if is_number(line.get(key)) and line.get("epoch") == arguments.get("epoch")]
        what = f"{metric_label(number)}, epoch {arguments.get('epoch')}, whose weights are not kept"
        same = bool(logged) and logged[-1] == number["value"] == max(line[key] for line in lines if is_number(line.get(key)))
        yield Finding(what, number["value"], logged[-1] if logged else None, NOT_REPEATABLE if same else DIFFERENT)


def _exact(what: str, claimed: Any, found: Any) -> Finding:
    same = type(claimed) is type(found) and claimed == found
    return Finding(what, claimed, found, EQUAL if same else DIFFERENT)


def _close(what: str, claimed: float, found: float | None, tolerance: float) -> Finding:
    if found is None or abs(claimed - found) > tolerance:
        return Finding(what, claimed, found, DIFFERENT)
    return Finding(what, claimed, found, EQUAL if claimed == found else WITHIN_TOLERANCE)
