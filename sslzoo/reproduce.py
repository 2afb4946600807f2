"""What a run or repository claims, measured again."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sslzoo.data import EMBEDDED, hub_id, source_name
from sslzoo.encoders import model_folder
from sslzoo.errors import InputError
from sslzoo.evaluation import data_facts, protocol_named
from sslzoo.hub import card_claims, metric_label
from sslzoo.inference import load_data, measure_stored
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

    Files against the digests that the training left; the card against results.json; data sets against their fingerprints; numbers of the
    weights against new measurements by the same protocol, with its tolerance; and those of earlier epochs, whose weights are not kept,
    against metrics.jsonl.

    on: data sets to be found elsewhere than the claim says, each called like the one it stands for (its last part).
    Raises `InputError` for a folder that claims nothing, and for a data set that cannot be had.
    """
    folder = model_folder(name)
    run = Run(folder)
    results = run.results()
    if not results["numbers"]:
        raise InputError(f"{name} claims no numbers: its {RESULTS} has none")
    findings = [*_files(run, results["training"])]
    if (folder / CARD).is_file():
        findings += [_exact(claim.what, claim.card, claim.results) for claim in card_claims(run)]
    last = [number for number in results["numbers"] if number["when"] == "last"]
    findings += _measured_again(folder, run, last, on, cpu)
    return findings + [*_earlier(run, [number for number in results["numbers"] if number["when"] == "best"])]


def _files(run: Run, training: dict[str, Any]) -> Iterator[Finding]:
    if not training:  # weights of others, which no training here has left
        return
    claimed, found = training.get("files", {}), run.digests()
    for file in {**claimed, **found}:
        yield _exact(file, claimed.get(file), found.get(file))
    as_written = (run.folder / RECIPE).read_text(encoding="utf-8") in (recipe_text(run.recipe), recipe_text(run.recipe.public()))
    yield _exact(f"{RECIPE} as it was written", True, as_written)


def _measured_again(folder: Path, run: Run, numbers: list[dict[str, Any]], on: Sequence[str], cpu: bool) -> Iterator[Finding]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for number in numbers:
        # One measurement gives every number of a protocol on a data set.
        provenance = number["provenance"]
        key = str([number["protocol"], number["dataset"], provenance["train_split"], number["split"], provenance["seed"]])
        groups.setdefault(key, []).append(number)
    for group in groups.values():
        protocol, provenance = group[0]["protocol"], group[0]["provenance"]
        place, read_as = _place(group[0]["dataset"], run, on), provenance["read_as"] or {}
        splits = provenance["train_split"], group[0]["split"]
        data = load_data(folder, place, splits, read_as.get("image_column"), read_as.get("label_column"), read_as.get("canvas"), cpu)
        facts = data_facts(data)
        for fact in ("train_fingerprint", "test_fingerprint", "preprocessing"):
            yield _exact(f"{group[0]['dataset']}: {fact}", provenance[fact], facts[fact])
        for weights in {number["provenance"]["weights_sha256"] for number in group}:
            yield _exact(f"{group[0]['dataset']}: weights that {protocol} was measured on", weights, run.weights_sha256)
        again = {identity(number): number for number in measure_stored(folder, data, facts, protocol, provenance["seed"], cpu)}
        for number in group:
            what, found = f"{metric_label(number)}, {number['dataset']} {number['split']}, {protocol}", again.get(identity(number))
            yield _close(what, number["value"], found and found["value"], protocol_named(protocol).tolerance)


def _place(dataset: str, run: Run, on: Sequence[str]) -> str:
    """Where the data set of a claim is. Raises `InputError`."""
    own = [run.recipe.dataset] if (run.folder / RECIPE).is_file() else []
    for place in (*on, *own, dataset):
        if source_name(place) == source_name(dataset) and (place == EMBEDDED or hub_id(place) or Path(place).exists()):
            return place
    raise InputError(f"numbers were measured on '{dataset}', which is neither here nor on the Hub: say where yours is, --on .../{dataset}")


def _earlier(run: Run, numbers: list[dict[str, Any]]) -> Iterator[Finding]:
    """The best epoch's numbers: what metrics.jsonl says of that epoch."""
    lines = run.metrics() if numbers else []
    for number in numbers:
        arguments = number["arguments"]
        key = f"{number['metric']} k={arguments.get('k')} T={arguments.get('temperature')}"
        logged = [line[key] for line in lines if key in line and line.get("epoch") == arguments.get("epoch")]
        what = f"{metric_label(number)}, epoch {arguments.get('epoch')}, whose weights are not kept"
        same = bool(logged) and logged[-1] == number["value"] == max(line[key] for line in lines if key in line)
        yield Finding(what, number["value"], logged[-1] if logged else None, GONE if same else DIFFERENT)


def _exact(what: str, claimed: Any, found: Any) -> Finding:
    return Finding(what, claimed, found, EQUAL if claimed == found else DIFFERENT)


def _close(what: str, claimed: float, found: float | None, tolerance: float) -> Finding:
    if found is None or abs(claimed - found) > tolerance:
        return Finding(what, claimed, found, DIFFERENT)
    return Finding(what, claimed, found, EQUAL if claimed == found else WITHIN)
