"""The leaderboard believes no metadata: what sslzoo writes is read whole, all else is put aside with a reason and costs nobody else."""

import copy
import sys

import pytest
import yaml
from test_card import make_run

from sslzoo.errors import InputError
from sslzoo.hub import leaderboard, write_card
from sslzoo.hub.leaderboard import KNN_PROTOCOL, KNN_SETTING, Listed, card_models, catalogue, entries


@pytest.fixture(scope="module")
def metadata(tmp_path_factory) -> dict:
    """A card's, as sslzoo writes it and the Hub lists it."""
    run = make_run(tmp_path_factory.mktemp("run") / "run")
    return yaml.safe_load(write_card(run.folder).read_text().split("---\n")[1])


def changed(metadata: dict, weights: int = 0, **block) -> dict:
    """A copy with other keys in the block `sslzoo`, and weights of its own."""
    values = copy.deepcopy(metadata)
    values["sslzoo"] |= {"weights_sha256": f"{weights:064x}", **block}
    return values


def with_number(metadata: dict, **values) -> dict:
    numbers = copy.deepcopy(metadata["sslzoo"]["numbers"])
    numbers[0] |= values
    return changed(metadata, numbers=numbers)


def counted(models: list[Listed]) -> tuple[tuple[list, list], int]:
    """What `entries` makes of them, and how many calls of Python and C functions that takes: a measure of the work without a clock."""
    calls = 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        found = entries(models)
    finally:
        sys.setprofile(before)
    return found, calls


def test_what_sslzoo_writes_is_read_whole(metadata):
    (entry,), broken = entries([Listed("sslzoo/simclr-res6-digits", metadata, 12, "2026-11-24T00:00:00.000Z")])
    assert broken == []
    block = metadata["sslzoo"]
    for key in ("method", "encoder", "dataset", "image_size", "epochs", "batch_size", "images", "processes", "hardware", "weights_sha256"):
        assert getattr(entry, key) == block[key]
    assert entry.device_hours == pytest.approx(4000 * 2 / 3600) and entry.downloads == 12 and entry.reference == {"knn_top1": 0.9}
    assert [(number.arguments, number.value, number.when, number.epoch) for number in entry.numbers] == [
        ((("k", 20), ("temperature", 0.1)), 0.7654321, "last", None),
        ((("k", 200), ("temperature", 0.1)), 0.5, "last", None),
        ((("k", 20), ("temperature", 0.1)), 0.81, "best", 2),
    ]
    assert entry.numbers[1].protocol == KNN_PROTOCOL and entry.numbers[1].setting == KNN_SETTING
    assert entry.link.endswith("/sslzoo/simclr-res6-digits") and entry.own
    text = yaml.safe_dump(metadata)
    assert entries([Listed(entry.name, text, 12, entry.created)])[0] == [entry], "the same from a card's text"


def test_only_own_test_numbers_of_the_published_weights_are_compared(metadata):
    first = metadata["sslzoo"]["numbers"][0]
    others = [{"dataset": "other/data"}, {"split": "train"}, {"split": "train-part"}, {"when": "best"}]
    numbers = [first, *({**first, **other} for other in others)]
    (entry,), _ = entries([Listed("a/b", changed(metadata, numbers=numbers))])
    assert len(entry.numbers) == 5 and entry.comparable == entry.numbers[:1]
    chosen = {**first, "metric": "linear_top1", "arguments": {"selected_lr": 0.1, "augment": True}}
    (entry,), _ = entries([Listed("a/b", changed(metadata, numbers=[chosen]))])
    assert entry.numbers[0].setting == (("augment", True),), "what a protocol chose by itself makes no other setting"


LONG = "x" * 10_000_000
BLOCKS = {
    "no block": (lambda good: {"tags": ["sslzoo"]}, "no block 'sslzoo'"),
    "no metadata": (lambda good: None, "no block 'sslzoo'"),
    "a list": (lambda good: changed(good) | {"sslzoo": []}, "sslzoo is a list of 0"),
    "missing key": (lambda good: {"sslzoo": {k: v for k, v in good["sslzoo"].items() if k != "epochs"}}, "lacks 'epochs'"),
    "HTML": (lambda good: changed(good, hardware="<img src=x onerror=alert(1)>"), "hardware: '<img"),
    "link": (lambda good: changed(good, dataset="[digits](javascript:alert(1))"), "dataset: '[digits]"),
    "script as method": (lambda good: changed(good, method="simclr<script>"), "method: 'simclr<script>'"),
    "turned text": (lambda good: changed(good, hardware="A\u202eB"), "short plain text"),
    "line break": (lambda good: changed(good, encoder="res18\n"), "one short word"),
    "huge text": (lambda good: changed(good, hardware=LONG), "short plain text"),
    "text for a number": (lambda good: changed(good, epochs="200"), "epochs: '200'"),
    "truth for a number": (lambda good: changed(good, epochs=True), "epochs: True"),
    "no end": (lambda good: changed(good, seconds=float("inf")), "seconds: inf"),
    "huge whole number": (lambda good: changed(good, images=10**400), "images: a huge number"),
    "negative": (lambda good: changed(good, processes=-1), "processes: -1"),
    "200 percent": (lambda good: with_number(good, value=2.0), "number 1 has value: 2.0"),
    "percent for a fraction": (lambda good: with_number(good, value=76.5), "value: 76.5"),
    "no number": (lambda good: with_number(good, value=float("nan")), "value: nan"),
    "reference": (lambda good: changed(good, reference={"knn_top1": 1.5}), "knn_top1: 1.5"),
    "reference's key": (lambda good: changed(good, reference={"<b>": 0.5}), "key '<b>'"),
    "argument": (lambda good: with_number(good, arguments={"k": [1]}), "arguments.k: a list of 1"),
    "argument that is no number": (lambda good: with_number(good, arguments={"k": float("nan")}), "arguments.k: nan"),
    "argument's text": (lambda good: with_number(good, arguments={"k": "`x`"}), "arguments.k"),
    "when": (lambda good: with_number(good, when="always"), "'last' or 'best'"),
    "twice": (lambda good: changed(good, numbers=good["sslzoo"]["numbers"][:1] * 2), "number 2 stands twice"),
    "many numbers": (lambda good: changed(good, numbers=[{}] * 100_000), "numbers: a list of 100000"),
    "a row that is none": (lambda good: changed(good, numbers=["x"]), "number 1 is 'x'"),
    "digest": (lambda good: {"sslzoo": {**good["sslzoo"], "weights_sha256": "1"}}, "64 hexadecimal digits"),
    "10 MB of YAML": (lambda good: "sslzoo:\n" + "  a: b\n" * 1_500_000, "characters or more"),
    "aliases": (lambda good: "a: &a [x, x]\n" + "".join(f"{n}: &{n} [*{p}, *{p}]\n" for p, n in zip("abcdefgh", "bcdefghi", strict=True)),
                "YAML aliases"),
    "merged keys": (lambda good: "a: &a {x: 1}\nb: {<<: [*a, *a]}", "YAML aliases"),
    "deep": (lambda good: "sslzoo: " + "[" * 100_000, "nested more than"),
    "no YAML": (lambda good: "sslzoo: [", "no YAML"),
    "no such day": (lambda good: "sslzoo: 2024-13-45", "no YAML"),
    "code": (lambda good: "sslzoo: !!python/object/apply:os.system [true]", "no YAML"),
}  # fmt: skip


@pytest.mark.parametrize("case", BLOCKS)
def test_broken_and_hostile_metadata_is_put_aside_and_costs_nobody_else(metadata, case):
    make, reason = BLOCKS[case]
    models = [Listed("ada/before", changed(metadata, 1)), Listed("eve/bad", make(metadata)), Listed("ada/after", changed(metadata, 2))]
    (sound, broken), calls = counted(models)
    # A sound text takes some 30,000, a block already read a hundredth of it.
    assert calls < 10 * max(counted([Listed("ada/text", yaml.safe_dump(metadata))])[1], counted(models[:1])[1])
    assert [entry.name for entry in sound] == ["ada/before", "ada/after"]
    assert [one.name for one in broken] == ["eve/bad"] and reason in broken[0].reason
    assert len(broken[0].reason) <= 200 and "\n" not in broken[0].reason and "\u202e" not in broken[0].reason


def test_imported_weights_are_no_entries_and_no_mistakes(metadata):
    assert entries([Listed("sslzoo/imported", {"sslzoo": {"encoder": "res50", "imported": {"source": "x"}, "numbers": []}})]) == ([], [])


@pytest.mark.parametrize("name", ["no-namespace", "a/b/c", "../b", "a/<b>", "a/b\n", "ssIzоo/b", None, 5, "a/" + "b" * 1000])
def test_names_that_are_none_are_put_aside(metadata, name):
    sound, broken = entries([Listed(name, metadata)])
    assert not sound and "no name of a model" in broken[0].reason and len(broken[0].name) <= 200


def test_nobody_passes_for_another(metadata):
    def listed(name, weights, created):
        return Listed(name, changed(metadata, weights), 0, created)

    models = [
        listed("eve/copy-of-ours", 1, "2020"), listed("sslzoo/ours", 1, "2026"), listed("eve/copy-of-adas", 2, "2026"),
        listed("ada/first", 2, "2025"), listed("ada/first", 3, "2027"),
    ]  # fmt: skip
    sound, broken = entries(models)
    assert [entry.name for entry in sound] == ["sslzoo/ours", "ada/first"]
    assert [tuple(one) for one in broken] == [
        ("eve/copy-of-ours", "the weights of sslzoo/ours, which was there first"),
        ("eve/copy-of-adas", "the weights of ada/first, which was there first"),
        ("ada/first", "the name of ada/first, which was there first"),
    ]


def test_ten_times_as_many_models_take_ten_times_the_work(metadata):
    hostile = [make(metadata) for make, _ in BLOCKS.values()]
    models = [
        Listed(f"eve/m{index}", hostile[index // 2 % len(hostile)] if index % 2 else changed(metadata, index)) for index in range(600)
    ]
    _, few = counted(models[:60])
    (sound, broken), many = counted(models)
    assert (len(sound), len(broken)) == (300, 300) and many < 12 * few


def test_catalogue_has_the_cards_numbers(metadata, tmp_path, monkeypatch):
    monkeypatch.setattr(leaderboard, "cards_folder", lambda: tmp_path)
    assert all(row["measured"] == {} for row in catalogue())
    card = tmp_path / "simclr-res6-digits" / "README.md"
    card.parent.mkdir()
    metadata = changed(metadata, numbers=metadata["sslzoo"]["numbers"][::-1])
    card.write_text(f"---\n{yaml.safe_dump(metadata)}---\n\n# A model\n\n---\n")
    (listed,) = card_models()
    assert listed.name == "sslzoo/simclr-res6-digits" and listed.folder == card.parent
    measured = {row["recipe"]: row["measured"] for row in catalogue() if row["measured"]}
    assert measured == {"digits/simclr": {"knn_top1": 0.5}}, "k = 200, and not the best epoch"
    card.write_text("no metadata")
    with pytest.raises(InputError, match="the card of sslzoo/simclr-res6-digits is broken: .* no block 'sslzoo'"):
        catalogue()
