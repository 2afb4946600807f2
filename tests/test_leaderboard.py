"""The leaderboard trusts no metadata: what sslzoo writes is read in full, anything else is quarantined and affects no other model."""

import copy
import sys

import pytest
import yaml
from test_card import make_run

from sslzoo.errors import InputError
from sslzoo.hub import KNN_PROTOCOL, KNN_SETTING, ListedModel, card_models, catalogue, listing, read_entries, write_card
from sslzoo.recipe import read_recipe, shipped_recipes
from sslzoo.recipe.yaml_files import read_values


@pytest.fixture(scope="module")
def metadata(tmp_path_factory) -> dict:
    """A card's, as sslzoo writes it and the Hub lists it."""
    run = make_run(tmp_path_factory.mktemp("run") / "run")
    return yaml.safe_load(write_card(run.folder).read_text().split("---\n")[1])


def changed(metadata: dict, repository: str = "eve/bad", **block) -> dict:
    """The metadata of a card that lies in `repository`, with other keys in its block `sslzoo`."""
    values = copy.deepcopy(metadata)
    values["sslzoo"] |= {"repository": repository, **block}
    return values


def with_number(metadata: dict, **values) -> dict:
    numbers = copy.deepcopy(metadata["sslzoo"]["numbers"])
    numbers[0] |= values
    return changed(metadata, numbers=numbers)


def counted(models: list[ListedModel]) -> tuple[tuple[list, list], int]:
    """The result of `read_entries`, and the number of Python and C function calls it takes: a measure of work without a clock."""
    calls = 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        found = read_entries(models)
    finally:
        sys.setprofile(before)
    return found, calls


def test_what_sslzoo_writes_is_read_in_full(metadata):
    (entry,), quarantined = read_entries([ListedModel("sslzoo/simclr-res6-digits", metadata, 12, "2026-11-24T00:00:00.000Z")])
    assert quarantined == []
    block = metadata["sslzoo"]
    for key in ("method", "encoder", "dataset", "image_size", "epochs", "batch_size", "images", "processes", "hardware", "weights_sha256"):
        assert getattr(entry, key) == block[key]
    assert entry.device_hours == pytest.approx(4000 * 2 / 3600) and entry.downloads == 12 and entry.reference == {"knn_top1": 0.9}
    assert [(number.arguments, number.value, number.when, number.epoch) for number in entry.measurements] == [
        ((("k", 20), ("temperature", 0.1)), 0.7654321, "last", None),
        ((("k", 200), ("temperature", 0.1)), 0.5, "last", None),
        ((("k", 20), ("temperature", 0.1)), 0.81, "best", 2),
    ]
    assert entry.measurements[1].protocol == KNN_PROTOCOL and entry.measurements[1].setting == KNN_SETTING
    assert entry.link.endswith("/sslzoo/simclr-res6-digits") and entry.own
    text = yaml.safe_dump(metadata)
    assert read_entries([ListedModel(entry.name, text, 12, entry.created)])[0] == [entry], "the same from a card's text"


def test_only_own_test_numbers_of_the_published_weights_are_compared(metadata):
    first = metadata["sslzoo"]["numbers"][0]
    others = [{"dataset": "other/data"}, {"split": "train"}, {"split": "train-part"}, {"when": "best"}]
    numbers = [first, *({**first, **other} for other in others)]
    (entry,), _ = read_entries([ListedModel("a/b", changed(metadata, "a/b", numbers=numbers))])
    assert len(entry.measurements) == 5 and entry.comparable == entry.measurements[:1]
    chosen = {**first, "metric": "linear_top1", "arguments": {"selected_lr": 0.1, "augment": True}}
    (entry,), _ = read_entries([ListedModel("a/b", changed(metadata, "a/b", numbers=[chosen]))])
    assert entry.measurements[0].setting == (("augment", True),), "what a protocol selected itself is not part of the setting"


LONG = "x" * 10_000_000
BLOCKS = {
    "no block": (lambda good: {"tags": ["sslzoo"]}, "no block 'sslzoo'"),
    "no metadata": (lambda good: None, "no block 'sslzoo'"),
    "a list": (lambda good: changed(good) | {"sslzoo": []}, "sslzoo is a list of 0"),
    "missing key": (lambda good: {"sslzoo": {k: v for k, v in changed(good)["sslzoo"].items() if k != "epochs"}}, "lacks 'epochs'"),
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
    "twice": (lambda good: changed(good, numbers=good["sslzoo"]["numbers"][:1] * 2), "number 2 is listed twice"),
    "many numbers": (lambda good: changed(good, numbers=[{}] * 100_000), "numbers: a list of 100000"),
    "a row that is none": (lambda good: changed(good, numbers=["x"]), "number 1 is 'x'"),
    "digest": (lambda good: changed(good, weights_sha256="1"), "64 hexadecimal digits"),
    "another's card": (lambda good: good, "its card is that of sslzoo/simclr-res6-digits"),
    "no repository": (lambda good: changed(good, None), "repository: None"),
    "a tag of YAML's": (lambda good: "sslzoo: !!bool x", "not valid YAML"),
    "a date of YAML's": (lambda good: "sslzoo: !!timestamp x", "not valid YAML"),
    "10 MB of YAML": (lambda good: "sslzoo:\n" + "  a: b\n" * 1_500_000, "characters or more"),
    "aliases": (lambda good: "a: &a [x, x]\n" + "".join(f"{n}: &{n} [*{p}, *{p}]\n" for p, n in zip("abcdefgh", "bcdefghi", strict=True)),
                "YAML aliases"),
    "merged keys": (lambda good: "a: &a {x: 1}\nb: {<<: [*a, *a]}", "YAML aliases"),
    "deep": (lambda good: "sslzoo: " + "[" * 100_000, "nested more than"),
    "no YAML": (lambda good: "sslzoo: [", "not valid YAML"),
    "no such day": (lambda good: "sslzoo: 2024-13-45", "not valid YAML"),
    "code": (lambda good: "sslzoo: !!python/object/apply:os.system [true]", "not valid YAML"),
}  # fmt: skip


@pytest.mark.parametrize("case", BLOCKS)
def test_malformed_or_hostile_metadata_is_quarantined_and_affects_no_other_model(metadata, case):
    make, reason = BLOCKS[case]
    models = [ListedModel(name, changed(metadata, name)) for name in ("ada/before", "ada/after")]
    models.insert(1, ListedModel("eve/bad", make(metadata)))
    (valid, quarantined), calls = counted(models)
    # Valid YAML takes about 30,000 calls, metadata that is already parsed a hundredth of that.
    assert calls < 10 * max(counted([ListedModel("ada/text", yaml.safe_dump(metadata))])[1], counted(models[:1])[1])
    assert [entry.name for entry in valid] == ["ada/before", "ada/after"]
    assert [one.name for one in quarantined] == ["eve/bad"] and reason in quarantined[0].reason
    assert len(quarantined[0].reason) <= 200 and "\n" not in quarantined[0].reason and "\u202e" not in quarantined[0].reason


def test_imported_weights_are_neither_listed_nor_quarantined(metadata):
    block = {"encoder": "res50", "imported": {"source": "x"}, "numbers": []}
    assert read_entries([ListedModel("sslzoo/imported", {"sslzoo": block})]) == ([], [])


@pytest.mark.parametrize("name", ["no-namespace", "a/b/c", "../b", "a/<b>", "a/b\n", "ssIzоo/b", None, 5, "a/" + "b" * 1000])
def test_invalid_names_are_quarantined(metadata, name):
    valid, quarantined = read_entries([ListedModel(name, metadata)])
    assert not valid and "not a model name on the Hub" in quarantined[0].reason and len(quarantined[0].name) <= 200


def test_no_model_impersonates_or_quarantines_another(metadata):
    """Anyone can write any digest into a card: an older model that claims the weights of another has no effect on it."""
    def listed(name, created, repository=None, **block):
        return ListedModel(name, changed(metadata, repository or name, **block), 0, created)

    models = [
        listed("eve/older", "2020"), listed("sslzoo/ours", "2026"), listed("ada/real", "2025"), listed("eve/better", "2026", epochs=9),
        listed("eve/copy-of-ours", "2020", "sslzoo/ours"), listed("ada/real", "2027", images=7), listed("Ada/real", "2024"),
        listed("eve/sslzoo", "2020", "sslzoo/sslzoo"), listed("Eve/Renamed", "2020", "eve/renamed"),
    ]  # fmt: skip
    valid, quarantined = read_entries(models)
    assert len({entry.weights_sha256 for entry in valid}) == 1
    assert [entry.name for entry in valid] == ["eve/older", "sslzoo/ours", "ada/real", "eve/better", "Ada/real", "Eve/Renamed"]
    assert [entry.name for entry in valid if entry.own] == ["sslzoo/ours"]
    assert [tuple(one) for one in quarantined] == [
        ("eve/copy-of-ours", "its card is that of sslzoo/ours"), ("eve/sslzoo", "its card is that of sslzoo/sslzoo"),
        ("ada/real", "an older model has the name ada/real"),
    ]  # fmt: skip


VALUES = (None, [], {}, [None], {"a": {"b": []}}, 10**30, -1, float("nan"), float("inf"), True, "x" * 5000, "<b>", "\ud800", 2**70 + 0.5)


def test_no_card_takes_the_board_down(metadata):
    """Every value of the metadata is replaced by every kind of nonsense: each model is listed, or quarantined with a one-line reason."""
    def paths(value, at=()):
        if at:
            yield at
        for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
            yield from paths(value[key], (*at, key))

    models = []
    for *path, last in paths(metadata):
        for value in VALUES:
            values = inside = changed(metadata, "eve/bad")
            for key in path:
                inside = inside[key]
            inside[last] = value
            name = f"eve/bad{len(models)}"
            if isinstance(values["sslzoo"], dict):
                values |= {"sslzoo": {**values["sslzoo"], "repository": name}}
            models.append(ListedModel(name, values))
    valid, quarantined = read_entries(models)
    assert len(valid) + len(quarantined) == len(models) > 500 and not any("cannot be read" in one.reason for one in quarantined)
    assert all(len(one.reason) <= 200 and "\n" not in one.reason for one in quarantined)


def test_ten_times_as_many_models_take_ten_times_the_work(metadata):
    hostile = [make(metadata) for make, _ in BLOCKS.values()]
    models = [
        ListedModel(f"eve/m{index}", hostile[index // 2 % len(hostile)] if index % 2 else changed(metadata, f"eve/m{index}"))
        for index in range(600)
    ]
    _, few = counted(models[:60])
    (valid, quarantined), many = counted(models)
    assert (len(valid), len(quarantined)) == (300, 300) and many < 12 * few


def test_catalogue_has_what_the_recipes_say_when_they_are_read():
    """It reads their files itself, without torch."""
    for row in catalogue():
        recipe = read_recipe(row["recipe"])
        assert {key: row[key] for key in ("name", "method", "encoder", "batch_size", "epochs", "reference")} == {
            key: getattr(recipe, key) for key in ("name", "method", "encoder", "batch_size", "epochs", "reference")
        }
        values = read_values(shipped_recipes()[row["recipe"]])
        assert recipe.reference_k == values.get("reference_k", dict(KNN_SETTING)["k"])


def test_catalogue_has_the_cards_numbers(metadata, tmp_path, monkeypatch):
    monkeypatch.setattr(listing, "cards_folder", lambda: tmp_path)
    assert all(row["measured"] == {} for row in catalogue())
    card = tmp_path / "simclr-res6-digits" / "README.md"
    card.parent.mkdir()
    metadata = changed(metadata, "sslzoo/simclr-res6-digits", numbers=metadata["sslzoo"]["numbers"][::-1])
    card.write_text(f"---\n{yaml.safe_dump(metadata)}---\n\n# A model\n\n---\n")
    (listed,) = card_models()
    assert listed.name == "sslzoo/simclr-res6-digits" and listed.folder == card.parent
    measured = {row["recipe"]: row["measured"] for row in catalogue() if row["measured"]}
    assert measured == {"digits/simclr": {"knn_top1": 0.5}}, "k = 200, and not the best epoch"
    assert not any(row["other_data"] for row in catalogue())
    metadata["sslzoo"]["dataset"] = "other"
    card.write_text(f"---\n{yaml.safe_dump(metadata)}---\n\n# A model\n\n---\n")
    assert {row["recipe"]: row["other_data"] for row in catalogue() if row["other_data"]} == {"digits/simclr": "other"}
    card.write_text("no metadata")
    with pytest.raises(InputError, match="the card of sslzoo/simclr-res6-digits is malformed: .* no block 'sslzoo'"):
        catalogue()
