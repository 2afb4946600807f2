"""What a run or repository claims, measured again."""

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
from sslzoo.hub import card_claims, metric_label
from sslzoo.hub.card import is_imported
from sslzoo.hub.contents import WITHHELD
from sslzoo.hub.fields import Fields, is_number
from sslzoo.hub.fitness import CODE, check_regular, configuration_differences, foreign_code, has_small_stem
from sslzoo.hub.pictures import CURVES
from sslzoo.hub.recorded import checked_metrics, checked_numbers, checked_training
from sslzoo.inference import load_data, measure_stored
from sslzoo.processes import all_or_none, check_alike
from sslzoo.recipe import recipe_text
from sslzoo.run import CARD, RECIPE, RESULTS, Run, identity

EQUAL, WITHIN, DIFFERENT, GONE = "equal", "within tolerance", "different", "cannot be repeated"


class Finding(NamedTuple):
    """One claim: what it is of, its value, the value found now, and one of `EQUAL`, `WITHIN`, `DIFFERENT` and `GONE`."""

    what: str
    claimed: Any
    found: Any
    verdict: str


def reproduce(name: str, on: Sequence[str] = (), *, cpu: bool = False) -> list[Finding]:
    """Holds every claim of a run folder or Hub repository against what is there, and measures every number of its weights again.

    Files against the digests that the training left, and the code of the small-image stem and the configuration against what sslzoo
    writes; the card against the one that the folder gives; what results.json records of the training against metrics and recipe; data
    sets against their fingerprints; numbers of the weights against new measurements by the same protocol, with its tolerance; and those
    of earlier epochs, whose weights are not kept, against metrics.jsonl. What was recorded once and leaves no other trace (time, memory,
    hardware, versions, dates) is held against the card alone.

    on: data sets to be found elsewhere than the claim says, each called like the one it stands for (its last part).
    Raises `InputError` for a folder that claims nothing, and for a data set that cannot be had.
    """
    make_accelerator("fp32", cpu)  # which connects the processes: from here on, what one meets is told to all
    with all_or_none():
        folder = model_folder(name)
        check_regular(folder, links=True)  # the Hub's cache is made of links
        run, repository = Run(folder), None if Path(name).expanduser().is_dir() else name
        numbers = checked_numbers(run)
        if not numbers:
            raise InputError(f"{name} claims no numbers: its {RESULTS} has none")
        training = {} if is_imported(run) else checked_training(run)
        if repository and has_small_stem(folder):
            _fetch_code(repository, folder)
        findings = [*_files(run, training), *_card(run, repository)]
        last = [number for number in numbers if number["when"] == "last"]
    check_alike("the numbers", last)
    findings += _measured_again(folder, run, last, on, cpu)
    return findings + [*_earlier(run, [number for number in numbers if number["when"] == "best"])]


def _fetch_code(repository: str, folder: Path) -> None:
    """Puts the Python files of a repository, which nothing here runs, beside the others of the commit that `folder` holds."""
    for file in CODE:
        try:
            hf_hub_download(repository, file, revision=folder.name)
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError):
            continue  # found missing


def _files(run: Run, training: dict[str, Any]) -> Iterator[Finding]:
    for difference in foreign_code(run.folder):
        yield _exact(difference.what, difference.found, difference.wanted)
    if not training:  # weights of others, which no training here has left
        return
    claimed, found = training.get("files"), run.digests()
    claimed = claimed if isinstance(claimed, dict) else {}
    for file in {**claimed, **found}:
        yield _exact(file, claimed.get(file), found.get(file))
    as_written = (run.folder / RECIPE).read_text(encoding="utf-8") in (recipe_text(run.recipe), recipe_text(run.recipe.public()))
    yield _exact(f"{RECIPE} as it was written", True, as_written)
    for difference in configuration_differences(run):
        yield _exact(difference.what, difference.found, difference.wanted)
    steps, recipe = training.get("steps"), run.recipe
    yield _exact("training: steps, of images, batch size and epochs", steps, training["images"] // recipe.batch_size * recipe.epochs)
    yield _exact("training: steps, the last in metrics.jsonl", steps, max(line["step"] for line in checked_metrics(run)))


def _card(run: Run, repository: str | None) -> Iterator[Finding]:
    if (run.folder / CARD).is_file():
        for claim in card_claims(run, repository):
            yield _exact(claim.what, claim.card, claim.results)
    elif repository or (run.folder / CURVES).is_file():
        yield Finding(CARD, "a card", None, DIFFERENT)
    else:
        yield Finding(f"{CARD}, which was never written or is gone (`sslzoo card` writes it)", None, None, GONE)


def _measured_again(folder: Path, run: Run, numbers: list[dict[str, Any]], on: Sequence[str], cpu: bool) -> Iterator[Finding]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for number in numbers:
        # One measurement gives every number of a protocol on a data set.
        provenance = Fields(number["provenance"], f"{folder / RESULTS}: {metric_label(number)}: 'provenance'")
        splits = provenance.text("train_split", None), number["split"]
        key = str([number["protocol"], number["dataset"], *splits, provenance.whole("seed", 0, 2**63 - 1)])
        groups.setdefault(key, []).append(number)
    for group in groups.values():
        protocol, provenance = group[0]["protocol"], group[0]["provenance"]
        with all_or_none():
            place, read_as = _place(group[0]["dataset"], run, on), provenance.get("read_as") or {}
        splits = provenance["train_split"], group[0]["split"]
        data = load_data(folder, place, splits, read_as.get("image_column"), read_as.get("label_column"), read_as.get("canvas"), cpu)
        facts = data_facts(data)
        for number in group:
            for fact, found in facts.items():
                claimed = number["provenance"].get(fact)
                if fact in ("train_images", "test_images"):
                    found = _count(claimed, data.train if fact == "train_images" else data.test)
                if number is group[0] or claimed != found:
                    yield _exact(f"{number['dataset']}: {fact}", claimed, found)
        for weights in {number["provenance"].get("weights_sha256") for number in group}:
            yield _exact(f"{group[0]['dataset']}: weights that {protocol} was measured on", weights, run.weights_sha256)
        yield from _trained_on(run, data.train)
        again = {identity(number): number for number in measure_stored(folder, data, facts, protocol, provenance["seed"], cpu)}
        for number in group:
            what, found = f"{metric_label(number)}, {number['dataset']} {number['split']}, {protocol}", again.get(identity(number))
            yield _close(what, number["value"], found and found["value"], protocol_named(protocol).tolerance)


def _trained_on(run: Run, images: ImageSet) -> Iterator[Finding]:
    """What results.json records of the training images, where these are they."""
    if not (run.folder / RECIPE).is_file():
        return
    recipe, training = run.recipe, run.results()["training"]
    read_as = {"image_column": recipe.image_column, "label_column": recipe.label_column, "canvas": recipe.canvas}
    if source_name(images.source) == source_name(recipe.dataset) and images.split == recipe.train_split and images.read_as == read_as:
        yield _exact(f"training: images of {source_name(recipe.dataset)}", training["images"], _count(training["images"], images))
        claimed = training["skipped_images"]
        found = [WITHHELD] * len(images.skipped) if WITHHELD in claimed else images.skipped
        yield _exact("training: skipped_images", claimed, found)


def _count(claimed: int | None, images: ImageSet) -> int:
    """How many images there are: with or without the broken ones, as it was where the claim was made, by the memory of that machine."""
    every = len(images) + (len(images.skipped) if images.resident else 0)
    return claimed if claimed in (every, every - len(images.skipped)) else len(images)


def _place(dataset: str, run: Run, on: Sequence[str]) -> str:
    """Where the data set of a claim is. Raises `InputError`."""
    own = [run.recipe.dataset] if (run.folder / RECIPE).is_file() else []
    for place in (*on, *own, dataset):
        if source_name(place) == source_name(dataset) and (place == EMBEDDED or hub_id(place) or Path(place).exists()):
            return place
    raise InputError(f"numbers were measured on '{dataset}', which is neither here nor on the Hub: say where yours is, --on .../{dataset}")


def _earlier(run: Run, numbers: list[dict[str, Any]]) -> Iterator[Finding]:
    """The best epoch's numbers: what metrics.jsonl says of that epoch."""
    lines = [line for line in checked_metrics(run) if "epoch" in line] if numbers else []  # without that of the untrained encoder
    for number in numbers:
        arguments = number["arguments"]
        key = f"{number['metric']} k={arguments.get('k')} T={arguments.get('temperature')}"
        logged = [line[key] for line in lines if is_number(line.get(key)) and line.get("epoch") == arguments.get("epoch")]
        what = f"{metric_label(number)}, epoch {arguments.get('epoch')}, whose weights are not kept"
        same = bool(logged) and logged[-1] == number["value"] == max(line[key] for line in lines if is_number(line.get(key)))
        yield Finding(what, number["value"], logged[-1] if logged else None, GONE if same else DIFFERENT)


def _exact(what: str, claimed: Any, found: Any) -> Finding:
    same = type(claimed) is type(found) and claimed == found
    return Finding(what, claimed, found, EQUAL if same else DIFFERENT)


def _close(what: str, claimed: float, found: float | None, tolerance: float) -> Finding:
    if found is None or abs(claimed - found) > tolerance:
        return Finding(what, claimed, found, DIFFERENT)
    return Finding(what, claimed, found, EQUAL if claimed == found else WITHIN)
