"""A leaderboard entry: one model as its card's metadata describes it, every field checked.

Anyone may publish a model tagged "sslzoo", so nothing in the metadata is trusted.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import constants

from sslzoo.errors import InputError

from .front_matter import parse_front_matter
from .listing import OWN_NAMESPACE, REPO_ID, ListedModel
from .validation import DIGEST, TEXT, WORD, UntrustedMapping, is_number, preview

KNN_PROTOCOL, KNN_SETTING = "knn-instdisc-v2", (("k", 200), ("temperature", 0.1))  # the page's usual kNN setting
_MAX_MEASUREMENTS, _MAX_ARGUMENTS, _MAX_SEEDS = 500, 16, 100


class Measurement(NamedTuple):
    """One measured value. Two can be compared if metric, protocol, setting, dataset and split are the same."""

    metric: str
    protocol: str
    arguments: tuple[tuple[str, int | float | str | bool], ...]  # sorted by name
    dataset: str
    split: str
    value: float  # a fraction
    when: str  # "last": of the published weights; "best": of the best epoch
    epoch: int | None  # of a "best" one, counted from 0
    train_images: int | None
    test_images: int | None
    code: str | None
    date: str | None
    other_seeds: tuple[float, ...]  # the values of runs of the same recipe with other seeds

    @property
    def setting(self) -> tuple[tuple[str, int | float | str | bool], ...]:
        """The arguments without those that the measurement selected itself, such as "selected_lr"."""
        return tuple(argument for argument in self.arguments if not argument[0].startswith("selected_"))


@dataclass(frozen=True)
class Entry:
    """A published model, every field checked.

    reference: the page's numbers by metric, as fractions. start: the weights it was trained from, "random weights" or a model.
    license: the Hub's name of it, "" where the card names none. downloads: None for a model that was not listed by the Hub.
    """

    name: str
    method: str
    encoder: str
    start: str
    dataset: str
    image_size: int
    epochs: int
    batch_size: int
    images: int
    seconds: float
    processes: int
    hardware: str
    reference: dict[str, float]
    measurements: tuple[Measurement, ...]
    weights_sha256: str
    license: str
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
    def comparable(self) -> tuple[Measurement, ...]:
        """What a leaderboard compares: the published weights, measured on the data set of the training, but not on its training split."""
        return tuple(
            measurement for measurement in self.measurements
            if measurement.when == "last" and measurement.dataset == self.dataset and not measurement.split.startswith("train")
        )  # fmt: skip


def read_entry(model: ListedModel) -> Entry | None:
    """The entry of a listed model; None for imported weights, which no recipe trained. Raises `InputError` for invalid metadata."""
    if not isinstance(model.name, str) or not REPO_ID.fullmatch(model.name):
        raise InputError("this is not a model name on the Hub")
    metadata = parse_front_matter(model.metadata) if isinstance(model.metadata, str) else model.metadata
    if not isinstance(metadata, dict) or "sslzoo" not in metadata:
        raise InputError("the card's metadata has no block 'sslzoo'")
    block = UntrustedMapping(metadata["sslzoo"], "sslzoo")
    if block.has("imported"):
        return None
    if block.text("repository").lower() != model.name.lower():
        raise InputError(f"its card is that of {block.text('repository')}")
    reference = block.mapping("reference", 50)
    listed = UntrustedMapping({"downloads": model.downloads, "created": model.created}, "the listing")
    return Entry(
        name=model.name, method=block.text("method", WORD), encoder=block.text("encoder", WORD),
        start=block.text("init_from").partition("@")[0] if block.has("init_from") else "random weights", dataset=block.text("dataset"),
        image_size=block.integer("image_size", 1, 10_000), epochs=block.integer("epochs", 1, 10**6),
        batch_size=block.integer("batch_size", 1, 10**7), images=block.integer("images", 1, 10**12), seconds=block.number("seconds", 1e9),
        processes=block.integer("processes", 1, 10**6), hardware=block.text("hardware"),
        reference={key: UntrustedMapping(reference, "reference").number(key, 1) for key in reference if _word(key, "reference")},
        measurements=_measurements(block.sequence("numbers", _MAX_MEASUREMENTS)), weights_sha256=block.text("weights_sha256", DIGEST),
        license=_license(metadata.get("license")), downloads=listed.integer("downloads", 0, 10**12) if listed.has("downloads") else None,
        created=listed.text("created") if listed.has("created") else "", folder=model.folder,
    )  # fmt: skip


def _license(value: Any) -> str:
    """The Hub, not sslzoo, says what a licence is called: a list of several, or none, is no fault of the card."""
    return value if isinstance(value, str) and WORD.fullmatch(value) else ""


def _measurements(rows: list) -> tuple[Measurement, ...]:
    measurements = tuple(_measurement(UntrustedMapping(row, f"number {index}"), f"number {index}") for index, row in enumerate(rows, 1))
    known = set()
    for index, measurement in enumerate(measurements, 1):
        key = (*measurement[: Measurement._fields.index("value")], measurement.when)
        if key in known:
            raise InputError(f"number {index} is listed twice: {measurement.metric} by {measurement.protocol}, {measurement.when}")
        known.add(key)
    return measurements


def _measurement(row: UntrustedMapping, where: str) -> Measurement:
    arguments = row.mapping("arguments", _MAX_ARGUMENTS)
    for key, value in arguments.items():
        _word(key, f"{where}: arguments")
        if not isinstance(value, bool) and not is_number(value) and not (isinstance(value, str) and TEXT.fullmatch(value[:201])):
            raise InputError(f"{where} has arguments.{key}: {preview(value)}, must be a number or short plain text")
    when = row.text("when", WORD)
    if when not in ("last", "best"):
        raise InputError(f"{where} has when: '{when}', must be 'last' or 'best'")
    return Measurement(
        metric=row.text("metric", WORD), protocol=row.text("protocol", WORD),
        arguments=tuple(sorted((key, value) for key, value in arguments.items() if key != "epoch")),
        dataset=row.text("dataset"), split=row.text("split"), value=row.number("value", 1), when=when,
        epoch=UntrustedMapping(arguments, f"{where}: arguments").integer("epoch", 0, 10**6) if "epoch" in arguments else None,
        train_images=row.integer("train_images", 0, 10**12) if row.has("train_images") else None,
        test_images=row.integer("test_images", 0, 10**12) if row.has("test_images") else None,
        code=row.text("code") if row.has("code") else None, date=row.text("date") if row.has("date") else None,
        other_seeds=_other_seeds(row, where),
    )  # fmt: skip


def _other_seeds(row: UntrustedMapping, where: str) -> tuple[float, ...]:
    others = row.sequence("other_seeds", _MAX_SEEDS) if row.has("other_seeds") else []
    return tuple(UntrustedMapping(other, f"{where}: other_seeds").number("value", 1) for other in others)


def _word(key: Any, where: str) -> str:
    if not isinstance(key, str) or not WORD.fullmatch(key):
        raise InputError(f"{where} has the key {preview(key)}, must be one short word")
    return key
