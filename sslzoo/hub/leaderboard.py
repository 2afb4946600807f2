"""The zoo as a table: every recipe with the page's numbers, and every published model with the numbers in its card's metadata.

Anybody may publish a model that is tagged "sslzoo", so nothing in the metadata is believed: a model whose metadata is not what sslzoo
writes is put aside with the reason, and never costs the others.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import constants
from huggingface_hub.utils import build_hf_headers, paginate

from sslzoo.errors import InputError, first_line
from sslzoo.recipe import Recipe, read_recipe, shipped_recipes

from .fields import DIGEST, TEXT, WORD, Fields, is_number, shown
from .front_matter import parsed, read_card
from .markdown import one_line

OWN_NAMESPACE = "sslzoo"
KNN_PROTOCOL, KNN_SETTING = "knn-instdisc-v2", (("k", 200), ("temperature", 0.1))  # kNN as the page has it nearly everywhere
_PAGES_PROTOCOLS = (KNN_PROTOCOL, "linear-simclr-v1", "linear-mae-v1", "finetune-simclr-v1", "finetune-mae-v1")
_LAST = (("of", "last epoch"),)
_MOST_MODELS, _MOST_NUMBERS, _MOST_ARGUMENTS = 10_000, 500, 16
MODEL_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


class Listed(NamedTuple):
    """A model as it was found, nothing of it checked."""

    name: Any  # "namespace/name"
    metadata: Any  # the card's: a dict, or YAML as text
    downloads: Any = None
    created: Any = None
    folder: Path | None = None  # where its files are on this machine; None: on the Hub


class Number(NamedTuple):
    """One measurement. Numbers may be compared when metric, protocol, setting, dataset and split are the same."""

    metric: str
    protocol: str
    arguments: tuple[tuple[str, int | float | str | bool], ...]  # by name
    dataset: str
    split: str
    value: float  # a fraction
    when: str  # "last" for the published weights, "best" for an epoch on the way
    epoch: int | None  # of a "best" one, counted from 0
    train_images: int | None
    test_images: int | None
    code: str | None
    date: str | None

    @property
    def setting(self) -> tuple[tuple[str, int | float | str | bool], ...]:
        """The arguments without what the measurement chose by itself, such as "selected_lr"."""
        return tuple(argument for argument in self.arguments if not argument[0].startswith("selected_"))


@dataclass(frozen=True)
class Entry:
    """A published model, every field checked.

    reference: the page's numbers by metric, as fractions. downloads: None where the Hub was not asked.
    """

    name: str
    method: str
    encoder: str
    dataset: str
    image_size: int
    epochs: int
    batch_size: int
    images: int
    seconds: float
    processes: int
    hardware: str
    reference: dict[str, float]
    numbers: tuple[Number, ...]
    weights_sha256: str
    downloads: int | None
    created: str
    folder: Path | None

    @property
    def device_hours(self) -> float:
        return self.seconds * self.processes / 3600

    @property
    def link(self) -> str:
        return f"{constants.ENDPOINT}/{self.name}"

    @property
    def own(self) -> bool:
        """Whether the project itself published it."""
        return self.name.startswith(f"{OWN_NAMESPACE}/")

    @property
    def comparable(self) -> tuple[Number, ...]:
        """What a leaderboard compares: numbers of the published weights, on the data set of the training but not on its training split."""
        return tuple(
            number for number in self.numbers
            if number.when == "last" and number.dataset == self.dataset and not number.split.startswith("train")
        )  # fmt: skip


class Quarantined(NamedTuple):
    """A model that is not shown, and why."""

    name: str
    reason: str


def cards_folder() -> Path:
    """Where the cards that come with sslzoo are: inside the installed package, else beside it in the checkout."""
    package = Path(__file__).parents[1]
    inside = package / "model_cards"
    return inside if inside.is_dir() else package.parent / "model_cards"


def catalogue() -> list[dict[str, Any]]:
    """One row a recipe: recipe, dataset, method, variant, encoder, batch_size, epochs, name, reference and measured.

    dataset: the recipe's folder. variant: what stands behind the method in the file's name. reference: the page's numbers by metric, as
    fractions. measured: ours, from the card of that name; empty where there is none. Raises `InputError` for a broken card.
    """
    cards, broken = entries(card_models())
    if broken:
        raise InputError(f"{cards_folder()}: the card of {broken[0].name} is broken: {broken[0].reason}")
    by_name = {entry.name: entry for entry in cards}
    rows = []
    for name, file in shipped_recipes().items():
        recipe = read_recipe(file)
        dataset, _, stem = name.partition("/")
        entry = by_name.get(f"{OWN_NAMESPACE}/{recipe.name}")
        rows.append(
            {
                "recipe": name, "dataset": dataset, "method": recipe.method, "variant": stem[len(recipe.method) + 1 :] or None,
                "encoder": recipe.encoder, "batch_size": recipe.batch_size, "epochs": recipe.epochs, "name": recipe.name,
                "reference": recipe.reference, "measured": _measured(entry, recipe) if entry else {},
            }
        )  # fmt: skip
    return rows


def card_models(folder: Path | None = None) -> list[Listed]:
    """The cards in a folder, `<name>/README.md`, as the project's own models. None: those that come with sslzoo."""
    files = sorted((folder or cards_folder()).glob("*/README.md"))
    return [Listed(f"{OWN_NAMESPACE}/{file.parent.name}", _metadata(file), folder=file.parent) for file in files]


def hub_models(timeout: float = 10) -> list[Listed]:
    """Every public model on the Hub that is tagged "sslzoo"; asked without a token, in pages.

    timeout: seconds that one answer may take; the client asks an unwell Hub again. Raises `ConnectionError`.
    """
    # Not HfApi.list_models: it parses each card's metadata, and one that holds a key "self" ends the whole list with a TypeError.
    asked = [("filter", "sslzoo"), ("limit", 500), *(("expand", field) for field in ("cardData", "createdAt", "downloads"))]
    try:
        rows = paginate(f"{constants.ENDPOINT}/api/models", asked, build_hf_headers(token=False), timeout)
        return [
            Listed(row.get("id"), row.get("cardData"), row.get("downloads"), row.get("createdAt")) for row in islice(rows, _MOST_MODELS)
        ]
    except Exception as error:  # the client, its transport and JSON each raise their own
        raise ConnectionError(f"cannot list the Hub's models: {first_line(error)}") from error


def entries(models: Iterable[Listed]) -> tuple[list[Entry], list[Quarantined]]:
    """The models with sound metadata in the order given, and the others with what is wrong; imported weights, of no recipe, are neither.

    A card speaks for the repository that it names and lies in, and for no other: a copy of somebody's card is put aside, and nothing that
    a card says ever puts another model aside. Of several models with one name the first that was there is kept.
    """
    sound, broken = [], []
    for model in models:
        try:
            sound.append(_entry(model))
        except _Imported:
            continue
        except Exception as error:  # what a stranger wrote must not cost the others, whatever was not thought of
            reason = str(error) if isinstance(error, InputError) else f"the metadata cannot be read: {type(error).__name__}"
            name = one_line(model.name[:200]) if isinstance(model.name, str) else shown(model.name)
            broken.append(Quarantined(name, one_line(reason)))
    first: dict[str, Entry] = {}
    for entry in sorted(sound, key=lambda entry: entry.created):
        first.setdefault(entry.name, entry)
    kept = []
    for entry in sound:
        if first[entry.name] is entry:
            kept.append(entry)
        else:
            broken.append(Quarantined(entry.name, f"the name of {first[entry.name].name}, which was there first"))
    return kept, broken


def _measured(entry: Entry, recipe: Recipe) -> dict[str, float]:
    """The numbers of the published weights that stand beside the page's: of its protocols and its k, after the last epoch."""
    pages = {"knn": (("k", recipe.reference_k), ("temperature", 0.1)), "linear": _LAST, "finetune": _LAST}
    return {
        number.metric: number.value for number in entry.comparable
        if number.protocol in _PAGES_PROTOCOLS and number.setting == pages[number.metric.partition("_")[0]]
    }  # fmt: skip


def _metadata(file: Path) -> str:
    """The YAML at the head of a card, "" where it cannot be read."""
    try:
        return read_card(file)[0] if file.is_file() else ""
    except InputError:
        return ""


class _Imported(Exception):
    """The card is that of weights which others trained: there is nothing to compare."""


def _entry(model: Listed) -> Entry:
    if not isinstance(model.name, str) or not MODEL_NAME.fullmatch(model.name):
        raise InputError("this is no name of a model on the Hub")
    metadata = parsed(model.metadata) if isinstance(model.metadata, str) else model.metadata
    if not isinstance(metadata, dict) or "sslzoo" not in metadata:
        raise InputError("the card's metadata has no block 'sslzoo'")
    block = Fields(metadata["sslzoo"], "sslzoo")
    if block.has("imported"):
        raise _Imported
    if block.text("repository").lower() != model.name.lower():
        raise InputError(f"its card is that of {block.text('repository')}")
    reference = block.mapping("reference", 50)
    outside = Fields({"downloads": model.downloads, "created": model.created}, "the listing")
    return Entry(
        name=model.name, method=block.text("method", WORD), encoder=block.text("encoder", WORD), dataset=block.text("dataset"),
        image_size=block.whole("image_size", 1, 10_000), epochs=block.whole("epochs", 1, 10**6),
        batch_size=block.whole("batch_size", 1, 10**7), images=block.whole("images", 1, 10**12), seconds=block.number("seconds", 1e9),
        processes=block.whole("processes", 1, 10**6), hardware=block.text("hardware"),
        reference={key: Fields(reference, "reference").number(key, 1) for key in reference if _word(key, "reference")},
        numbers=_numbers(block.rows("numbers", _MOST_NUMBERS)), weights_sha256=block.text("weights_sha256", DIGEST),
        downloads=outside.whole("downloads", 0, 10**12) if outside.has("downloads") else None,
        created=outside.text("created") if outside.has("created") else "", folder=model.folder,
    )  # fmt: skip


def _numbers(rows: list) -> tuple[Number, ...]:
    numbers = tuple(_number(Fields(row, f"number {place}"), f"number {place}") for place, row in enumerate(rows, 1))
    seen = set()
    for place, number in enumerate(numbers, 1):
        key = (*number[: Number._fields.index("value")], number.when)
        if key in seen:
            raise InputError(f"number {place} stands twice: {number.metric} by {number.protocol}, {number.when}")
        seen.add(key)
    return numbers


def _number(row: Fields, where: str) -> Number:
    arguments = row.mapping("arguments", _MOST_ARGUMENTS)
    for key, value in arguments.items():
        _word(key, f"{where}: arguments")
        if not isinstance(value, bool) and not is_number(value) and not (isinstance(value, str) and TEXT.fullmatch(value[:201])):
            raise InputError(f"{where} has arguments.{key}: {shown(value)}, must be a number or short plain text")
    when = row.text("when", WORD)
    if when not in ("last", "best"):
        raise InputError(f"{where} has when: '{when}', must be 'last' or 'best'")
    return Number(
        metric=row.text("metric", WORD), protocol=row.text("protocol", WORD),
        arguments=tuple(sorted((key, value) for key, value in arguments.items() if key != "epoch")),
        dataset=row.text("dataset"), split=row.text("split"), value=row.number("value", 1), when=when,
        epoch=Fields(arguments, f"{where}: arguments").whole("epoch", 0, 10**6) if "epoch" in arguments else None,
        train_images=row.whole("train_images", 0, 10**12) if row.has("train_images") else None,
        test_images=row.whole("test_images", 0, 10**12) if row.has("test_images") else None,
        code=row.text("code") if row.has("code") else None, date=row.text("date") if row.has("date") else None,
    )  # fmt: skip


def _word(key: Any, where: str) -> str:
    if not isinstance(key, str) or not WORD.fullmatch(key):
        raise InputError(f"{where} has the key {shown(key)}, must be one short word")
    return key
