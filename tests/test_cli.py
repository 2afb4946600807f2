"""The command line, as a user types it."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch
from PIL import Image
from small_digits import small_digits

from sslzoo.cli import main
from sslzoo.cli_console import hide_progress_bars
from sslzoo.data import load_images
from sslzoo.encoders import features, load_pretrained
from sslzoo.evaluation import Preprocessing

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "simclr"
    changes = ["epochs=1", "batch_size=256", "warmup_epochs=0"]
    assert main(["train", "digits/simclr", "--cpu", "--output", str(folder), "--set", *changes]) == 0
    return folder


def error_of(capsys, *arguments: str, code: int = 2) -> str:
    assert main(list(arguments)) == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]


def test_train_ends_by_printing_the_run_folder(run_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changes = ["--set", f"dataset={small_digits()}", "batch_size=16", "--set", "epochs=1", "name=mine"]
    assert main(["train", "digits/simclr", "--cpu", *changes]) == 0
    assert capsys.readouterr().out.strip().splitlines()[-1] == "runs/mine"
    assert (tmp_path / "runs/mine/model.safetensors").exists()


def test_train_script_is_the_same_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(ROOT / "recipes/train.py"), "digits/simclr", "--set", "lrr=1"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(sys.argv[0], run_name="__main__")
    assert ended.value.code == 2 and "unknown key 'lrr': did you mean 'lr'?" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["list"], ["list", "--markdown"]])
def test_what_reads_text_alone_waits_for_no_large_library(arguments):
    """torch, transformers and datasets take seconds to import."""
    code = f"import sys; from sslzoo.cli import main\ntry: main({arguments})\nfinally: print(sorted(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout
    assert "'sslzoo.cli'" in done.stderr
    assert not [name for name in ("torch", "transformers", "datasets", "numpy", "matplotlib") if f"'{name}'" in done.stderr]


def test_progress_bars_of_datasets_are_hidden_without_importing_it(monkeypatch):
    monkeypatch.setenv("HF_DATASETS_DISABLE_PROGRESS_BARS", "")  # restored to what it was
    monkeypatch.delenv("HF_DATASETS_DISABLE_PROGRESS_BARS")
    monkeypatch.delitem(sys.modules, "datasets", raising=False)
    hide_progress_bars()
    assert os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] == "1" and "datasets" not in sys.modules
    hidden = []
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(disable_progress_bars=lambda: hidden.append(True)))
    hide_progress_bars()
    assert hidden, "imported before"


def test_list_has_a_row_for_every_recipe(capsys):
    assert main(["list", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["recipe"] for row in rows} == {
        file.relative_to(ROOT / "recipes").with_suffix("").as_posix() for file in (ROOT / "recipes").glob("*/*.yaml")
        if file.parent.name != "accelerate"
    }  # fmt: skip
    by_name = {row["recipe"]: row for row in rows}
    assert by_name["cifar10/simclr-b512"] == {
        "recipe": "cifar10/simclr-b512", "dataset": "cifar10", "method": "simclr", "variant": "b512", "encoder": "res18", "batch_size": 512,
        "epochs": 200, "name": "simclr-res18-cifar10-b512", "reference": {"knn_top1": 0.848},
        "measured": {"knn_top1": 0.8455, "knn_top5": 0.9938}, "other_data": "cifar10-93-from-jpeg",
    }  # fmt: skip
    assert by_name["imagenet1k/dino"]["reference"]["linear_top1"] == 0.682 and by_name["imagenet1k/dino"]["variant"] is None
    assert main(["list"]) == 0
    assert "84.5 on cifar10-93-from-jpeg (page 84.8)" in capsys.readouterr().out


def test_evaluate_repeats_the_numbers_of_the_training(run_folder, capsys):
    before = json.loads((run_folder / "results.json").read_text())
    assert main(["evaluate", str(run_folder), "--json", "--cpu"]) == 0
    numbers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"protocol", "dataset", "split", "metric", "value", "provenance"} <= numbers[0].keys()

    def values(found):
        return {(number["metric"], *number["arguments"].values()): number["value"] for number in found if number["when"] == "last"}

    assert values(numbers) == values(before["numbers"])
    after = json.loads((run_folder / "results.json").read_text())
    assert len(after["numbers"]) == len(before["numbers"]) and after["training"] == before["training"]


def test_evaluate_on_other_data_adds_its_numbers(run_folder, tmp_path, capsys):
    random = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 4)):
        for label in ("cats", "dogs"):
            folder = tmp_path / "pets" / split / label
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 100, (20, 24, 3), np.uint8) + (100 if label == "dogs" else 0)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index}.png")
    assert main(["evaluate", str(run_folder), "--on", str(tmp_path / "pets"), "--cpu"]) == 0
    out = capsys.readouterr().out
    assert "knn_top1 (k 20, temperature 0.1)" in out and "100.00 %" in out
    numbers = json.loads((run_folder / "results.json").read_text())["numbers"]
    own = [number for number in numbers if number["dataset"] == "pets"]
    assert own and own[0]["provenance"]["train_images"] == 16 and own[0]["provenance"]["test_images"] == 8


def test_embed_writes_the_features_of_every_image(run_folder, tmp_path, capsys):
    file = tmp_path / "features.parquet"
    assert main(["embed", str(run_folder), "digits", "--split", "test", "--output", str(file), "--cpu"]) == 0
    table = parquet.read_table(file)
    assert table.num_rows == 500 and table.column_names == ["row", "name", "label", "feature"]
    images = load_images("digits", "test", device=torch.device("cpu"))
    (batch,) = images.batches([torch.arange(500)])
    with torch.no_grad():
        expected = features(load_pretrained(run_folder), Preprocessing.read(run_folder)(batch.pixels, batch.sizes))
    assert np.allclose(np.array(table["feature"].to_pylist()), expected.numpy(), atol=1e-5)
    assert table["label"].to_pylist() == batch.labels.tolist()
    assert main(["embed", str(run_folder), "digits", "--split", "test", "--output", str(file), "--patches", "--cpu"]) == 0
    assert parquet.read_table(file, columns=["grid"])["grid"].to_pylist() == [[8, 8]] * 500


def test_card_and_dry_run_of_publish(run_folder, capsys):
    assert main(["card", str(run_folder)]) == 0
    assert Path(capsys.readouterr().out.strip()) == run_folder / "README.md"
    assert main(["publish", str(run_folder), "--to", "ada", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "model.safetensors" in out and "ada/simclr-res6-digits" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "digit/simclr"], "unknown recipe 'digit/simclr': did you mean 'digits/simclr'?"),
        (["train", "digits/simclr", "--set", "methd=x"], "unknown key 'methd': did you mean 'method'?"),
        (["train", "digits/simclr", "--set", "method=simclrr"], "unknown method 'simclrr': did you mean 'simclr'?"),
        (["train", "digits/simclr", "--set", "encoder=res19"], "unknown encoder 'res19'"),
        (["train", "digits/simclr", "--set", "dataset=./digts"], "unknown folder or file './digts'"),
        (["train", "digits/simclr", "--set", "train_split=tran"], "unknown split 'tran': did you mean 'train'?"),
        (["train", "digits/simclr", "--set", "epochs"], "--set takes key=value, not 'epochs'"),
        (["train", "digits/simclr", "--set", "epochs=many"], "epochs is 'many': must be a whole number"),
        (["evaluate", "./nowhere"], "no folder './nowhere'"),
        (["card", "./nowhere"], "nowhere is no run folder"),
        (["publish", "./nowhere", "--to", "ada"], "nowhere"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits2").mkdir()
    assert message in error_of(capsys, *arguments)
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").glob("*/results.json"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "{run}", "--protocol", "knn-instdisc-v1"], "unknown protocol 'knn-instdisc-v1': did you mean 'knn-instdisc-v2'?"),
        (["evaluate", "{run}", "--test-split", "tset"], "unknown split 'tset': did you mean 'test'?"),
        (["embed", "{run}", "digits", "--output", "features.csv"], "must end"),
        (["train", "digits/simclr", "--output", "{run}"], "--resume"),
    ],
)
def test_wrong_input_about_a_run_is_one_line_and_exit_code_2(arguments, message, run_folder, capsys):
    before = {file.name: file.read_bytes() for file in run_folder.iterdir() if file.is_file()}
    expected = message if message != "must end" else "ends in .parquet"
    assert expected in error_of(capsys, *(argument.replace("{run}", str(run_folder)) for argument in arguments))
    assert {file.name: file.read_bytes() for file in run_folder.iterdir() if file.is_file()} == before


def test_wrong_column_is_named(tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(4):
        Image.new("RGB", (16, 16), (index, 0, 0)).save(folder / f"{index}.png")
    line = error_of(capsys, "train", "digits/simclr", "--cpu", "--set", f"dataset={folder}", "image_column=imge")
    assert "unknown image column 'imge': did you mean 'image'?" in line
