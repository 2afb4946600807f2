"""`sslzoo list`, `methods`, `encoders`, `explain` and `compare`, and several recipes in one `train`."""

import json
import shutil
from pathlib import Path

import pytest
from small_digits import small_digits

from sslzoo.cli import main
from sslzoo.encoders import ENCODERS
from sslzoo.explain import explain, key_meanings
from sslzoo.hub import cards_folder, comparison
from sslzoo.methods import method_names
from sslzoo.recipe import read_recipe
from sslzoo.run import Run

CARDS = cards_folder()


def printed(capsys, *arguments) -> list[str]:
    assert main([*map(str, arguments)]) == 0
    return capsys.readouterr().out.strip().splitlines()


@pytest.mark.parametrize(
    ("arguments", "recipes"),
    [
        (["dino", "--method", "dino"], {"cifar10/dino", "digits/dino", "imagenette/dino"}),
        (["digits/s*"], {"digits/simclr", "digits/swav", "digits/simsiam"}),
        (["cifar10", "digits/mae"], {"cifar10/simclr", "digits/mae"}),
    ],
)
def test_list_shows_the_recipes_that_fit(arguments, recipes, capsys):
    found = {line.split()[0] for line in printed(capsys, "list", *arguments)}
    assert recipes <= found and "imagenet1k/simclr" not in found and "digits/byol" not in found


def test_missing_are_those_without_a_number_of_ours(capsys):
    rows = [json.loads(line) for line in printed(capsys, "list", "--json")]
    missing = {line.split()[0] for line in printed(capsys, "list", "--missing")}
    assert missing == {row["recipe"] for row in rows if not row["measured"]} and "digits/simclr" not in missing


def test_a_filter_that_nothing_fits_is_an_error(capsys):
    assert main(["list", "nothing"]) == 2 and "no recipe fits" in capsys.readouterr().err


def test_methods_and_encoders_are_all_listed(capsys):
    assert [line.split()[0] for line in printed(capsys, "methods")] == method_names()
    lines = printed(capsys, "encoders")
    assert [line.split()[0] for line in lines[:-1]] == list(ENCODERS)
    # torchvision's ResNet-50 has 25,557,032 parameters, 2,049,000 of them in its classifier.
    assert next(line for line in lines if line.startswith("res50")).split()[1] == "23.5"


@pytest.mark.parametrize("method", method_names())
def test_every_key_of_a_recipe_has_a_meaning(method):
    meanings = key_meanings(method)
    keys = read_recipe(f"digits/{method}").flat()
    without = [key for key in keys if not meanings.get(f"*.{key.rpartition('.')[2]}" if key.startswith("view.") else key)]
    assert not without, "name them in the docstring of the recipe or of the method's configuration"


def test_explain_says_where_each_value_comes_from(tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    shutil.copy(CARDS.parent / "recipes/digits/dino.yaml", file)
    settings = {setting.key: setting for setting in explain(file, {"epochs": 3, "view.local.count": 2})}
    recipe = read_recipe(file, {"epochs": 3, "view.local.count": 2})
    assert {key: setting.value for key, setting in settings.items()} == recipe.flat()
    sources = {
        "epochs": "--set", "view.local.count": "--set", "lr": "the file", "seed": "default", "eval_crop": "derived", "name": "derived",
        "center_momentum": "default of dino", "view.local.ratio": "default of dino",
    }  # fmt: skip
    assert {key: settings[key].source for key in sources} == sources
    assert settings["view.local.count"].meaning.startswith("how many such views")
    assert "divided by" in settings["teacher_temperature"].meaning
    lines = [json.loads(line) for line in printed(capsys, "explain", file, "--json")]
    assert {line["key"]: line["value"] for line in lines} == json.loads(json.dumps(read_recipe(file).flat()))


def test_compare_shows_each_run_s_own_numbers(tmp_path, capsys):
    folders = [CARDS / f"{name}-res6-digits" for name in ("simclr", "dino")]
    head, _, *rows = printed(capsys, "compare", *folders, "--curves", tmp_path / "curves.png")[:4]
    column = [cell.strip() for cell in head.split("|")].index("knn-instdisc-v2, k=20")
    shown = {row.split("|")[1].strip(): float(row.split("|")[column]) for row in rows}
    for folder in folders:
        last = next(line for line in reversed(Run(folder).metrics()) if "knn_top1 k=20 T=0.1" in line)
        assert shown[folder.name] == pytest.approx(100 * last["knn_top1 k=20 T=0.1"])
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_runs_of_one_name_cannot_be_told_apart_in_a_picture(tmp_path, capsys):
    other = shutil.copytree(CARDS / "dino-res6-digits", tmp_path / "dino-res6-digits")
    arguments = ["compare", str(CARDS / other.name), str(other), "--curves", str(tmp_path / "curves.png")]
    assert main(arguments) == 2 and "same name" in capsys.readouterr().err and not (tmp_path / "curves.png").exists()


def test_several_recipes_are_trained_one_after_the_other_and_only_once(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = [f"dataset={small_digits()}", "epochs=1", "batch_size=16", "encoder=res6", "knn_every=0", "warmup_epochs=0"]
    names = ["digits/simclr", "digits/nothing", "digits/dc[l]"]
    assert main(["train", *names, "--cpu", "--set", *small]) == 1, "one of them is unknown"
    out, err = capsys.readouterr()
    folders = sorted(Path("runs").iterdir())
    assert len(folders) == 2 and "error: digits/nothing: unknown recipe" in err
    assert [row.split("|")[1].strip() for row in out.splitlines()[-2:]] == [folder.name for folder in reversed(folders)]
    before = {folder: (folder / "results.json").read_bytes() for folder in folders}
    shutil.rmtree(folders[0])
    assert main(["train", names[0], names[2], "digits/see[d]", "--cpu", "--set", *small]) == 0
    assert "recipe 3 of 3: digits/seed\nleft out: it learns from a trained encoder" in capsys.readouterr().out
    assert {folder: (folder / "results.json").read_bytes() == before[folder] for folder in folders} == {folders[0]: False, folders[1]: True}


def test_the_folder_of_one_run_is_not_taken_for_several(capsys, tmp_path):
    assert main(["train", "digits/*", "--output", str(tmp_path / "run")]) == 2
    assert "--output is for one run, not for" in capsys.readouterr().err
    assert main(["train", "nowhere/*"]) == 2
    assert "no recipe fits 'nowhere/*'" in capsys.readouterr().err


def test_runs_are_compared_by_the_protocol_that_measured_all_of_them_most_often():
    name, half = "knn_top1 k=20 T=0.1", "knn_top1 k=20 T=0.1 knn-instdisc-bf16-v2"
    full = [{"step": 0, name: 0.1}, {"step": 5, name: 0.2}, {"step": 9, name: 0.3}]
    mixed = [{"step": 0, name: 0.1}, *({"step": step, half: 0.2} for step in (3, 6, 9)), {"step": 9, name: 0.3}]
    assert comparison._knn_key([full, full]) == comparison._knn_key([full, mixed]) == comparison._knn_key([[], full]) == name
    assert comparison._knn_key([mixed, mixed]) == half
