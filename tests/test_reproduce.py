"""`reproduce` confirms an honest run and finds every change to it."""

import copy
import json
import os
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from foreign_networks import res6
from PIL import Image

from sslzoo import reproduce as reproduction
from sslzoo.cli import main
from sslzoo.errors import InputError
from sslzoo.hub import card_check, check_card, import_weights, write_card
from sslzoo.run import Run


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
    """A run on a local data set, also measured on another one, with its card."""
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
    """A copy of the run and its data, to be changed."""
    shutil.copytree(honest / "run", tmp_path / "run")
    shutil.copytree(honest / "pets", tmp_path / "pets")
    (tmp_path / "beasts").symlink_to(tmp_path / "pets")
    return tmp_path


def ask(place: Path) -> list[str]:
    return ["reproduce", str(place / "run"), "--cpu", "--json", "--on", str(place / "pets"), str(place / "beasts")]


def reproduce(place: Path, capsys) -> tuple[int, dict[str, str]]:
    """Exit code, and each claim's verdict."""
    capsys.readouterr()
    code = main(ask(place))
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


def test_an_honest_run_is_confirmed(copied, capsys):
    code, verdicts = reproduce(copied, capsys)
    assert code == 0 and set(verdicts.values()) == {"equal", "cannot be repeated"}
    measured = [what for what in verdicts if what.endswith(", knn-instdisc-v2")]
    assert len(measured) == 8, "top-1 at two k and two temperatures, on two data sets"
    repeated = [what for what, verdict in verdicts.items() if verdict == "cannot be repeated"]
    assert len(repeated) == 4 and all("weights are not kept" in what for what in repeated)


def test_the_text_output_has_both_values(copied, capsys):
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
    found = {what for what in different(copied, capsys) if not what.startswith(("card: ", "model-index: ", "table: "))}
    assert len(found) == 1 and ("weights are not kept" in found.pop()) == (when == "best")


def test_a_changed_file_of_imported_weights_is_noticed(tmp_path, capsys):
    torch.save(res6().state_dict(), tmp_path / "res6.pth")
    run = import_weights(tmp_path / "res6.pth", tmp_path / "run")
    assert main(["evaluate", str(run), "--cpu", "--on", str(make_pets(tmp_path / "pets"))]) == 0
    assert different(tmp_path, capsys) == set()
    replace(run / "preprocessor_config.json", '"shortest_edge": 256', '"shortest_edge": 224')
    assert "preprocessor_config.json" in different(tmp_path, capsys)


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


def test_the_error_of_a_missing_data_set_says_how_to_name_it(copied, capsys):
    assert main(["reproduce", str(copied / "run"), "--cpu", "--on", str(copied / "pets")]) == 2
    error = capsys.readouterr().err
    assert "'beasts'" in error and "--on .../beasts" in error


def test_a_folder_without_numbers_claims_nothing(copied, capsys):
    (copied / "run/results.json").unlink()
    assert main(["reproduce", str(copied / "run"), "--cpu"]) == 2
    assert "claims no numbers" in capsys.readouterr().err


def test_local_paths_are_in_no_claim(honest):
    assert str(honest) not in (honest / "run/results.json").read_text() + (honest / "run/README.md").read_text()


@pytest.fixture
def measured_once(monkeypatch):
    """Caches loading and measuring: the tests below change nothing that they depend on."""
    for name in ("load_data", "measure_stored"):
        known, real = {}, getattr(reproduction, name)

        def once(*arguments, known=known, real=real):
            key = str([part for part in arguments if isinstance(part, (str, int, tuple))])
            if key not in known:
                known[key] = real(*arguments)
            return known[key]

        monkeypatch.setattr(reproduction, name, once)


@pytest.fixture
def made_once(monkeypatch):
    """Caches the expected card by name and pictures: the tests below change only the card."""
    real = card_check.card_text

    @cache
    def once(run: Run, repository: str, pictures: tuple) -> str:
        return real(run, repository, dict(pictures))

    monkeypatch.setattr(card_check, "card_text", lambda run, repository, pictures: once(run, repository, tuple(pictures.items())))


def different_in_card(run: Run) -> list:
    """The comparisons of `check_card` whose values differ, also in type alone."""
    return [one for one in check_card(run) if one.found != one.expected or type(one.found) is not type(one.expected)]


def dumped(metadata: dict) -> str:
    return yaml.dump(metadata, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper))


def paths(value, at: tuple = ()) -> Iterator[tuple]:
    """The paths to all values that contain no others."""
    if isinstance(value, (dict, list)) and value:
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from paths(value[key], (*at, key))
    else:
        yield at


def named(path: tuple) -> str:
    """What `check_card` calls the value: "card: numbers[3].arguments.k"."""
    part = {"sslzoo": "card", "model-index": "model-index"}.get(path[0], "metadata")
    keys = path if part == "metadata" else path[1:]
    return f"{part}: " + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).removeprefix(".")


def at(values, path: tuple):
    for key in path:
        values = values[key]
    return values


def other(value):
    """Another value of the same kind."""
    if isinstance(value, str):
        return value[:-1] + ("1" if value[-1] == "0" else "0")
    if isinstance(value, (bool, int, float)):
        return not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else value / 2 + 0.01
    return ["x.png"] if isinstance(value, list) else {"x": 1} if isinstance(value, dict) else "x"


NONSENSE = (None, [], {"a": [{}]}, [[1]], 10**30, float("nan"), True, -1, "x" * 5000, "")


def changed(values, path: tuple, value):
    values = copy.deepcopy(values)
    at(values, path[:-1])[path[-1]] = value
    return values


@pytest.mark.slow
def test_every_value_of_the_cards_metadata_is_compared_with_the_run(copied, made_once):
    card, run = copied / "run/README.md", Run(copied / "run")
    original = card.read_text()
    metadata = yaml.safe_load(original.split("---\n")[1])
    body = original.split("\n---\n", 1)[1]
    assert all(comparison.found == comparison.expected for comparison in check_card(run))
    all_paths = list(paths(metadata))
    assert len(all_paths) > 200 and ("sslzoo", "epochs") in all_paths and ("sslzoo", "reference") in all_paths
    namespace = ("sslzoo", "repository")  # which is taken from the card
    other_values = {path: other(at(metadata, path)) for path in all_paths}
    nonsense = {path: NONSENSE[count % len(NONSENSE)] for count, path in enumerate(all_paths)}
    nonsense.pop(namespace)
    other_types = {path: float(at(metadata, path)) for path in all_paths if type(at(metadata, path)) is int}
    alone = [{namespace: value} for value in (other_values.pop(namespace), *NONSENSE)]
    for values in (*alone, other_values, nonsense, other_types):
        wrong_metadata = copy.deepcopy(metadata)
        for path, value in values.items():
            at(wrong_metadata, path[:-1])[path[-1]] = copy.deepcopy(value)  # YAML would write one object in two places as an alias
        card.write_text(f"---\n{dumped(wrong_metadata)}---\n{body}")
        wrong = different_in_card(run)
        reported = {comparison.what for comparison in wrong}
        same = {path for path, value in values.items() if type(value) is type(at(metadata, path)) and value == at(metadata, path)}
        assert {named(path) for path in values.keys() - same - {namespace}} <= reported
        assert wrong and all(len(json.dumps(comparison)) < 1500 and "\n" not in comparison.what for comparison in wrong)
    for key in metadata:
        card.write_text(f"---\n{dumped({one: value for one, value in metadata.items() if one != key})}---\n{body}")
        assert different_in_card(run), f"without {key}"
    card.write_text(f"---\n{dumped(metadata | {'base_model': None})}---\n{body}")
    assert [one.what for one in different_in_card(run)] == ["metadata: base_model"]


def test_every_line_of_the_cards_text_is_compared_with_the_run(copied, made_once):
    card, run = copied / "run/README.md", Run(copied / "run")
    head, lines = card.read_text().partition("\n---\n")[:2], card.read_text().partition("\n---\n")[2].split("\n")
    assert len(lines) > 80
    for index, line in enumerate(lines):
        if line.strip():
            card.write_text("".join(head) + "\n".join([*lines[:index], line.replace(line.split()[-1], "42"), *lines[index + 1 :]]))
            assert different_in_card(run), line
    card.write_text("".join(head) + "\n".join([*lines[:-1], "One more sentence.", ""]))
    assert [one.found for one in different_in_card(run)] == ["One more sentence."]
    for text in ("", "---\n[]\n---\n", "---\nx\n---\n", "no metadata", "---\nsslzoo: 5\n---\n"):
        card.write_text(text)
        assert different_in_card(run), text
    for text in ("---\n{\n---\n", "---\na: &a 1\nb: *a\n---\n", "---\n!!bool x\n---\n", "---\n" + "[" * 9999 + "\n---\n"):
        card.write_text(text)
        with pytest.raises(InputError, match="the metadata"):
            check_card(run)


@pytest.mark.slow
def test_every_fact_of_the_training_is_checked(copied, measured_once, capsys):
    """Time, memory, hardware and versions can only be compared with the card: a change in both places cannot be noticed."""
    file = copied / "run/results.json"
    results = json.loads(file.read_text())
    assert different(copied, capsys) == set()
    all_paths = [("training", *path) for path in paths(results["training"])]
    assert {("training", "steps"), ("training", "skipped_images"), ("training", "environment", "datasets")} <= set(all_paths)
    for path in all_paths:
        file.write_text(json.dumps(changed(results, path, other(at(results, path)))))
        assert different(copied, capsys), path
    for path in all_paths:
        value = NONSENSE[len(str(path)) % len(NONSENSE)]
        file.write_text(json.dumps(changed(results, path, value)))
        assert main(ask(copied)) in (1, 2), (path, value)
    (copied / "run/README.md").unlink()
    for key, said in (("steps", "training: steps"), ("images", "training: images of pets"), ("skipped_images", "training: skipped_images")):
        path = ("training", key)
        file.write_text(json.dumps(changed(results, path, other(at(results, path)))))
        assert any(what.startswith(said) for what in different(copied, capsys)), "without the card"


@pytest.mark.slow
def test_every_fact_of_a_number_is_checked(copied, measured_once, capsys):
    """Code, machine and date of a measurement can only be compared with the card."""
    file = copied / "run/results.json"
    results = json.loads(file.read_text())
    place = next(place for place, number in enumerate(results["numbers"]) if number["when"] == "last")
    for path in paths(results["numbers"][place]):
        if path[:2] == ("provenance", "environment") and path[-1] != "hardware":
            continue  # a measurement's versions are recorded nowhere else
        file.write_text(json.dumps(changed(results, ("numbers", place, *path), other(at(results["numbers"][place], path)))))
        assert main(ask(copied)) in (1, 2), path
    capsys.readouterr()


def test_a_missing_card_is_noticed(copied, measured_once, capsys):
    (copied / "run/README.md").unlink()
    assert different(copied, capsys) == {"README.md"}
    (copied / "run/curves.png").unlink()
    code, verdicts = reproduce(copied, capsys)
    assert code == 0 and verdicts["README.md, which was never written or is gone (`sslzoo card` writes it)"] == "cannot be repeated"


def test_code_for_trust_remote_code_is_compared(copied, measured_once, capsys):
    run = copied / "run"
    for name in ("configuration_sslzoo_resnet.py", "modeling_sslzoo_resnet.py"):
        kept = (run / name).read_text()
        (run / name).write_text(kept + "#\n")
        assert different(copied, capsys) == {name}
        (run / name).unlink()
        assert different(copied, capsys) == {name}
        (run / name).write_text(kept)
    config = json.loads((run / "config.json").read_text())
    config["auto_map"]["AutoModel"] = "evil.Evil"
    (run / "config.json").write_text(json.dumps(config))
    results = Run(run).results()
    results["training"]["files"] = Run(run).digests()
    Run(run).write_results(results)
    assert different(copied, capsys) == {"config.json: auto_map"}, "even if the digests match"


def test_a_card_may_name_any_namespace_consistently(copied):
    card, run = copied / "run/README.md", Run(copied / "run")
    write_card(run.folder, "eve", with_images="(maps.png)" in card.read_text())
    assert all(comparison.found == comparison.expected for comparison in check_card(run))
    assert all(comparison.found == comparison.expected for comparison in check_card(run, "Eve/pets"))
    wrong = {comparison.what for comparison in check_card(run, "ada/pets") if comparison.found != comparison.expected}
    assert "card: repository" in wrong


def test_pipes_in_the_place_of_files_are_refused(copied, capsys):
    for name in ("results.json", "README.md", "metrics.jsonl"):
        (copied / "run" / name).unlink()
        os.mkfifo(copied / "run" / name)
        assert main(["reproduce", str(copied / "run"), "--cpu"]) == 2
        assert f"{name} is not a regular file" in capsys.readouterr().err
        (copied / "run" / name).unlink()
        (copied / "run" / name).write_text("{}")
