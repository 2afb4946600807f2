"""What a run claims, measured again: an honest run holds, and whatever is changed in it is found."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sslzoo.cli import main
from sslzoo.hub import write_card


def make_pets(folder: Path) -> Path:
    """Dark cats and light dogs that overlap, so that not every kNN vote is right."""
    random = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 8)):
        for label, light in (("cats", 0), ("dogs", 30)):
            place = folder / split / label
            place.mkdir(parents=True)
            for index in range(count):
                level = random.integers(0, 90) + light
                Image.fromarray((random.integers(0, 60, (16, 16, 3)) + level).astype(np.uint8)).save(place / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def honest(tmp_path_factory) -> Path:
    """A run on a local data set, measured on another one too, with its card."""
    place = tmp_path_factory.mktemp("honest")
    make_pets(place / "pets")
    (place / "beasts").symlink_to(place / "pets")
    changes = [f"dataset={place / 'pets'}", "epochs=2", "batch_size=8", "warmup_epochs=0", "name=pets"]
    assert main(["train", "digits/simclr", "--cpu", "--output", str(place / "run"), "--set", *changes]) == 0
    assert main(["evaluate", str(place / "run"), "--cpu", "--on", str(place / "beasts")]) == 0
    write_card(place / "run")
    return place


@pytest.fixture
def copied(honest, tmp_path) -> Path:
    """Of the run and its data, to be changed."""
    shutil.copytree(honest / "run", tmp_path / "run")
    shutil.copytree(honest / "pets", tmp_path / "pets")
    (tmp_path / "beasts").symlink_to(tmp_path / "pets")
    return tmp_path


def reproduce(place: Path, capsys) -> tuple[int, dict[str, str]]:
    """Exit code, and each claim's verdict."""
    capsys.readouterr()
    code = main(["reproduce", str(place / "run"), "--cpu", "--json", "--on", str(place / "pets"), str(place / "beasts")])
    findings = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return code, {finding["what"]: finding["verdict"] for finding in findings}


def different(place: Path, capsys) -> set[str]:
    code, verdicts = reproduce(place, capsys)
    found = {what for what, verdict in verdicts.items() if verdict == "different"}
    assert code == int(bool(found))
    return found


def replace(file: Path, before: str, after: str) -> None:
    text = file.read_text()
    assert text.count(before) >= 1 and before != after, before
    file.write_text(text.replace(before, after, 1))


def test_an_honest_run_holds(copied, capsys):
    code, verdicts = reproduce(copied, capsys)
    assert code == 0 and set(verdicts.values()) == {"equal", "cannot be repeated"}
    measured = [what for what in verdicts if what.endswith(", knn-instdisc-v2")]
    assert len(measured) == 8, "top-1 at two k and two temperatures, on two data sets"
    repeated = [what for what, verdict in verdicts.items() if verdict == "cannot be repeated"]
    assert len(repeated) == 4 and all("weights are not kept" in what for what in repeated)


def test_lines_for_people_say_both_values(copied, capsys):
    assert main(["reproduce", str(copied / "run"), "--cpu", "--on", str(copied / "pets"), str(copied / "beasts")]) == 0
    value = next(number["value"] for number in json.loads((copied / "run/results.json").read_text())["numbers"])
    assert f": {value} -> {value}" in capsys.readouterr().out


@pytest.mark.parametrize("file", ["model.safetensors", "ssl_heads.safetensors", "metrics.jsonl", "preprocessor_config.json", "config.json"])
def test_one_byte_of_a_file_is_noticed(file, copied, capsys):
    data = bytearray((copied / "run" / file).read_bytes())
    place = len(data) - 5 if file.endswith(".safetensors") else data.index(b"0")
    data[place] = data[place] ^ 1
    (copied / "run" / file).write_bytes(data)
    assert file in different(copied, capsys)


@pytest.mark.parametrize(
    ("before", "after"), [("temperature: 0.", "temperature: 1."), ("epochs: 2", "epochs: 3"), ("epochs: 2", "epochs:  2")]
)  # fmt: skip
def test_a_changed_recipe_is_noticed(before, after, copied, capsys):
    replace(copied / "run/recipe.yaml", before, after)
    assert {what for what in different(copied, capsys) if what.startswith("recipe.yaml")}


@pytest.mark.parametrize("when", ["last", "best"])
def test_a_changed_number_is_noticed(when, copied, capsys):
    file = copied / "run/results.json"
    results = json.loads(file.read_text())
    number = next(number for number in results["numbers"] if number["when"] == when)
    number["value"] = 1 - number["value"] + 0.1
    file.write_text(json.dumps(results))
    (copied / "run/README.md").unlink()
    found = different(copied, capsys)
    assert len(found) == 1 and ("weights are not kept" in found.pop()) == (when == "best")


def test_a_changed_card_is_noticed_in_each_place(copied, capsys):
    card = copied / "run/README.md"
    number = json.loads((copied / "run/results.json").read_text())["numbers"][0]
    percent = f"{100 * number['value']:.2f}"
    original = card.read_text()
    replace(card, f"value: {number['value']}", "value: 0.9876")
    assert any(what.startswith("card: ") for what in different(copied, capsys))
    card.write_text(original)
    replace(card, f"value: {100 * number['value']:g}\n", "value: 98.76\n")
    assert any(what.startswith("model-index: ") for what in different(copied, capsys))
    card.write_text(original)
    replace(card, f"| {percent} |", "| 98.76 |")
    assert any(what.startswith("table: ") for what in different(copied, capsys))


def test_changed_data_are_noticed(copied, capsys):
    file = copied / "pets/test/dogs/3.png"
    pixels = np.asarray(Image.open(file)).copy()
    pixels[3, 3, 1] ^= 1
    Image.fromarray(pixels).save(file)
    assert {"pets: test_fingerprint", "beasts: test_fingerprint"} <= different(copied, capsys)


def test_a_data_set_that_is_not_here_is_asked_for(copied, capsys):
    assert main(["reproduce", str(copied / "run"), "--cpu", "--on", str(copied / "pets")]) == 2
    error = capsys.readouterr().err
    assert "'beasts'" in error and "--on .../beasts" in error


def test_a_folder_without_numbers_claims_nothing(copied, capsys):
    (copied / "run/results.json").unlink()
    assert main(["reproduce", str(copied / "run"), "--cpu"]) == 2
    assert "claims no numbers" in capsys.readouterr().err


def test_where_local_data_lie_is_in_no_claim(honest):
    assert str(honest) not in (honest / "run/results.json").read_text() + (honest / "run/README.md").read_text()
