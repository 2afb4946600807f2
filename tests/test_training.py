"""The training loop: run folders, resuming, several processes, precision, and what is refused."""

import dataclasses
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from small_digits import TEST_IMAGES, TRAIN_IMAGES, small_digits
from tiny_teacher import teacher_changes
from torch.multiprocessing import ProcessExitedException
from two_processes import run_in_process

import sslzoo
from sslzoo import checkpoint as checkpoints
from sslzoo.cli import main
from sslzoo.data.resident import ResidentImages
from sslzoo.errors import InputError, TrainingError
from sslzoo.evaluation import PROTOCOLS, knn
from sslzoo.hub import metric_label, write_card
from sslzoo.methods import shipped_names
from sslzoo.recipe import read_recipe
from sslzoo.reproduce import DIFFERENT, reproduce
from sslzoo.run import Run
from sslzoo.training import images, knn_evaluation, loop, results, run_folder
from sslzoo.training import train as train_run

ROOT = Path(__file__).parents[1]
WEIGHTS = ("model.safetensors", "ssl_heads.safetensors")
# 5 steps an epoch
SHORT = {
    "dataset": small_digits(), "epochs": 3, "batch_size": 16, "knn_every": 0, "log_every": 2, "checkpoint_every": 4, "warmup_epochs": 1,
}  # fmt: skip


def short_recipe(method: str, **changes):
    return read_recipe(f"digits/{method}", {**SHORT, **teacher_changes(method), **changes})


def without_rehearsal(patch: pytest.MonkeyPatch) -> None:
    """Runs begin with their first step: a rehearsal takes longer than the few steps of these."""
    patch.setattr(sys.modules[train_run.__module__], "rehearse", lambda *_: None)


def train(recipe, folder, **options) -> Run:
    """On the CPU."""
    with pytest.MonkeyPatch.context() as patch:
        without_rehearsal(patch)
        return train_run(recipe, folder, cpu=True, **options)


def same_weights(first: Path, second: Path) -> bool:
    return all((first / name).read_bytes() == (second / name).read_bytes() for name in WEIGHTS)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {**load_file(folder / WEIGHTS[0]), **load_file(folder / WEIGHTS[1])}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    """The folder of a short SimCLR run without an interruption."""
    return train(short_recipe("simclr"), tmp_path_factory.mktemp("runs") / "whole").folder


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> Path:
    """The folder of the same run, killed after step 9, one step after the checkpoint of step 8."""
    folder = tmp_path_factory.mktemp("runs") / "killed"
    with pytest.MonkeyPatch.context() as patch:
        train_until(9, short_recipe("simclr"), folder, patch)
    return folder


class Killed(BaseException):
    """An error that no code catches."""


def train_until(step: int, recipe, folder: Path, monkeypatch) -> None:
    """Trains and is killed right after optimiser step `step`."""
    original = loop.Training._train_step

    def dying(self, *arguments):
        if self.step == step:
            raise Killed
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Training, "_train_step", dying)
        with pytest.raises(Killed):
            train(recipe, folder, resume=True)


def resume_and_compare(recipe, whole: Path, stopped: Path) -> None:
    """Resumes a run that was stopped, and compares its weights and losses with those of the same run without an interruption."""
    train(recipe, stopped, resume=True)
    assert same_weights(whole, stopped)
    curves = [[(line["step"], line.get("loss")) for line in Run(folder).metrics()] for folder in (whole, stopped)]
    assert curves[0] == curves[1]


@pytest.mark.parametrize("method", shipped_names())
def test_an_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(method, tmp_path, monkeypatch):
    """Interrupted in the second epoch, a step after the checkpoint: a copy of the folder is what a killed run leaves."""
    recipe = short_recipe(method, dataset=small_digits(50), epochs=2, checkpoint_every=4, test_split=None)  # 3 steps an epoch
    original = loop.Training._train_step

    def copying(self, *arguments):
        if self.step == 5:
            shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Training, "_train_step", copying)
        train(recipe, tmp_path / "whole")
    resume_and_compare(recipe, tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.parametrize("method", ["dino", "swav"])
def test_a_resumed_run_may_be_interrupted_again(method, tmp_path, monkeypatch):
    """DINO freezes a layer in its first epoch, SwAV its prototypes in the first steps."""
    recipe = short_recipe(method, dataset=small_digits(50), epochs=2, checkpoint_every=2, test_split=None)
    train(recipe, tmp_path / "whole")
    # Right after the checkpoint of step 2, within the first epoch; then between two checkpoints, within the second.
    for step in (2, 5):
        train_until(step, recipe, tmp_path / "stopped", monkeypatch)
    resume_and_compare(recipe, tmp_path / "whole", tmp_path / "stopped")


def test_an_interruption_between_two_epochs_loses_no_evaluation(tmp_path, monkeypatch):
    recipe = short_recipe("simclr", knn_every=1, checkpoint_every=5)
    train(recipe, tmp_path / "whole")
    train_until(5, recipe, tmp_path / "stopped", monkeypatch)
    train(recipe, tmp_path / "stopped", resume=True)
    values = [
        [(number["metric"], number["when"], number["arguments"], number["value"]) for number in Run(tmp_path / name).results()["numbers"]]
        for name in ("whole", "stopped")
    ]
    assert values[0] == values[1]
    keys = [[(line["step"], line.get("knn_top1 k=20 T=0.1")) for line in Run(tmp_path / name).metrics()] for name in ("whole", "stopped")]
    assert keys[0] == keys[1] and sum(value is not None for _, value in keys[0]) == 4


def train_until_file(_, folder: str, first: int, changes: dict) -> None:
    """Trains with the command line, and kills its process when that is about to sync the `first`-th file of checkpoints."""
    checkpoints, sync, synced = Path(folder) / "checkpoints", os.fsync, []

    def fsync(handle):
        if list(checkpoints.glob(".step-*.new")) and len(list(checkpoints.glob("step-*"))) > 1:
            synced.append(handle)
            if len(synced) == first:
                os.kill(os.getpid(), signal.SIGKILL)
        sync(handle)

    os.fsync = fsync
    values = [f"{key}={value}" for key, value in changes.items()]
    main(["train", "digits/simclr", "--cpu", "--resume", "--output", folder, "--set", *values])


def test_a_killed_process_loses_nothing_that_was_saved(uninterrupted, tmp_path):
    changes, folder = {**SHORT, "checkpoint_every": 1}, tmp_path / "killed"
    reached = [0]
    # The first file of a checkpoint; after some more, the third of another.
    for count in (1, 5 * 2 + 3):
        with pytest.raises(ProcessExitedException) as ended:
            run_in_process(train_until_file, (str(folder), count, changes))
        assert ended.value.signal_name == "SIGKILL"
        assert list((folder / "checkpoints").glob(".step-*.new")), "in the middle of a checkpoint"
        reached.append(max(int(place.name[5:]) for place in (folder / "checkpoints").glob("step-*")))
    assert reached == sorted(set(reached)) and reached[-1] < 15
    assert not (tmp_path / "killed" / WEIGHTS[0]).exists()
    train(short_recipe("simclr", **changes), tmp_path / "killed", resume=True)
    assert same_weights(uninterrupted, tmp_path / "killed")


@pytest.mark.parametrize("file", ["method.safetensors", "optimizer.pt", "state.json", "manifest.json"])
def test_a_damaged_checkpoint_is_skipped(file, uninterrupted, killed, tmp_path, caplog):
    recipe = short_recipe("simclr")
    shutil.copytree(killed, tmp_path / "stopped")
    newest = tmp_path / "stopped" / "checkpoints" / "step-8" / file
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    train(recipe, tmp_path / "stopped", resume=True)
    assert "step-8" in caplog.text
    assert same_weights(uninterrupted, tmp_path / "stopped")


def test_a_truncated_checkpoint_is_skipped_and_an_unfinished_one_ignored(tmp_path, caplog):
    state = checkpoints.Checkpoint({"weight": torch.arange(3.0)}, {"optimizer": {}}, {"step": 1})
    for step in (1, 2):
        checkpoints.save_checkpoint(tmp_path, step, state._replace(state={"step": step}))
    (tmp_path / ".step-3.new").mkdir()
    assert checkpoints.load_checkpoint(tmp_path).state == {"step": 2}
    file = tmp_path / "step-2" / "method.safetensors"
    file.write_bytes(file.read_bytes()[:-2])
    assert checkpoints.load_checkpoint(tmp_path).state == {"step": 1}
    (tmp_path / "step-1" / "optimizer.pt").unlink()
    assert checkpoints.load_checkpoint(tmp_path) is None


def test_the_last_good_checkpoint_is_deleted_only_after_a_newer_one_is_written(tmp_path, monkeypatch):
    state = checkpoints.Checkpoint({"weight": torch.arange(3.0)}, {"optimizer": {}}, {"step": 1})
    for step in range(1, 5):
        checkpoints.save_checkpoint(tmp_path, step, state)
    assert sorted(place.name for place in tmp_path.iterdir()) == ["step-3", "step-4"]

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(OSError):
        checkpoints.save_checkpoint(tmp_path, 5, state)
    assert {"step-3", "step-4"} <= {place.name for place in tmp_path.iterdir()}


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("No space left"), RuntimeError("No space left")])
def test_a_full_disk_does_not_end_the_run(error, uninterrupted, tmp_path, monkeypatch, caplog):
    """Whichever writer fails: safetensors and torch raise errors of their own."""

    def full(tensors, file):
        Path(file).write_bytes(b"half of it")
        raise error

    monkeypatch.setattr(checkpoints, "save_file" if isinstance(error, SafetensorError) else "sha256_of", full)
    if not isinstance(error, SafetensorError):
        monkeypatch.setattr(checkpoints, "sha256_of", lambda file: full(None, file))
    monkeypatch.setattr(results, "remove_checkpoints", lambda run: None)
    run = train(short_recipe("simclr"), tmp_path / "run")
    assert same_weights(uninterrupted, run.folder)
    assert "no checkpoint at step 4" in caplog.text and "No space left" in caplog.text
    assert not list((run.folder / "checkpoints").iterdir())


def test_no_pickle_is_run_from_a_checkpoint(uninterrupted, killed, tmp_path):
    recipe = short_recipe("simclr")
    shutil.copytree(killed, tmp_path / "run")

    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "canary"),)

    for place in (tmp_path / "run" / "checkpoints").glob("step-*"):
        torch.save({"optimizer": Attack()}, place / "optimizer.pt")
        manifest = json.loads((place / "manifest.json").read_text())
        manifest["optimizer.pt"] = checkpoints.sha256_of(place / "optimizer.pt")
        (place / "manifest.json").write_text(json.dumps(manifest))
    train(recipe, tmp_path / "run", resume=True)
    assert not (tmp_path / "canary").exists()
    assert same_weights(uninterrupted, tmp_path / "run")


def test_two_processes_end_with_the_weights_of_one(tmp_path):
    """DINO on a ViT: without batch norm, only gathers, averaged gradients and the order of the images could differ."""
    changes = {**SHORT, "epochs": 1, "encoder": "vit-xs4", "optimizer": "sgd", "lr": 0.1, "frozen_epochs": 0, "head_norm": False}
    train(read_recipe("digits/dino", changes), tmp_path / "one")
    config = ROOT / "recipes/accelerate/two_cpu_processes.yaml"
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config), "--main_process_port", "0", "recipes/train.py",
        "digits/dino", "--output", str(tmp_path / "two"), "--set", *(f"{key}={value}" for key, value in changes.items()),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().endswith(str(tmp_path / "two"))
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    start = read_recipe("digits/dino", changes)
    torch.manual_seed(start.seed)
    moved = max(float((value - one[name]).abs().max()) for name, value in start.make_method().state_dict().items() if name in one)
    apart = max(float((one[name] - two[name]).abs().max()) for name in one)
    assert apart < 1e-4 * moved
    numbers = [[number["value"] for number in Run(tmp_path / name).results()["numbers"]] for name in ("one", "two")]
    assert np.allclose(*numbers, atol=0.004)
    assert Run(tmp_path / "two").results()["training"]["processes"] == 2


def test_micro_batches_add_up_to_the_batch(tmp_path):
    recipes = [short_recipe("mae", optimizer="sgd", lr=0.1, accumulate=parts, clip_norm=1.0) for parts in (1, 2)]
    for recipe in recipes:
        train(recipe, tmp_path / str(recipe.accumulate))
    one, two = weights(tmp_path / "1"), weights(tmp_path / "2")
    torch.manual_seed(0)
    start = {name.removeprefix("backbone."): value for name, value in recipes[0].make_method().state_dict().items()}
    for name in ("layernorm.weight", "decoder.predict.weight"):
        moved = float((start[name] - one[name]).abs().max())
        assert float((one[name] - two[name]).abs().max()) < 1e-3 * moved


def test_after_step_gets_the_rows_of_all_micro_batches(tmp_path, monkeypatch):
    counts, original = [], sslzoo.MoCoV2.after_step

    def watched(self, out, progress):
        counts.append(len(out["keys"]))
        original(self, out, progress)

    monkeypatch.setattr(sslzoo.MoCoV2, "after_step", watched)
    train(short_recipe("mocov2", accumulate=2, epochs=1, test_split=None), tmp_path)
    assert counts[-5:] == [16] * 5


def test_bfloat16_trains_like_float32(tmp_path):
    losses = []
    for precision in ("fp32", "bf16"):
        # In batches of 16, larger steps magnify the rounding.
        run = train(short_recipe("simclr", dataset=small_digits(34), precision=precision, epochs=2, lr=0.001), tmp_path / precision)
        losses.append([line["loss"] for line in run.metrics() if "loss" in line][-1])
        assert all(value.dtype != torch.bfloat16 for value in weights(run.folder).values())
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    numbers = run.results()["numbers"]
    found = {(number["protocol"], number["when"], number["provenance"]["precision"]) for number in numbers}
    assert found == {("knn-instdisc-v2", "last", "fp32"), ("knn-instdisc-bf16-v2", "best", "bf16")}
    write_card(run.folder)
    verdicts = {finding.what: finding.verdict for finding in reproduce(str(run.folder), cpu=True)}
    assert DIFFERENT not in verdicts.values() and f"{metric_label(numbers[-1])}, epoch 1, whose weights are not kept" in verdicts, verdicts


@pytest.mark.slow
def test_epochs_are_measured_in_the_runs_precision_and_the_ends_in_float32(tmp_path, monkeypatch, capsys):
    types, values = [], iter([0.95, 0.5, 0.4, 0.97])  # untrained, two epochs, and the final weights once more

    def accuracy(bank, *rest):
        types.append("bf16" if torch.equal(bank, bank.bfloat16().float()) else "fp32")
        return {("top1", 20, 0.1): next(values)}

    def no_step(self, epoch, batches):  # bfloat16 is slow on a CPU
        self.logs.add([{"loss": torch.zeros(())}])
        return [torch.rand(4, 3, 16, 16)]

    monkeypatch.setattr(knn, "knn_accuracy", accuracy)
    monkeypatch.setattr(loop.Training, "_train_step", no_step)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    recipe = short_recipe("simclr", precision="bf16", epochs=2, knn_every=1, checkpoint_every=5)
    train_until(7, recipe, tmp_path / "run", monkeypatch)
    run = train(recipe, tmp_path / "run", resume=True)
    assert "precision          this CPU has no instructions for bf16: --set precision=fp32 is several" in capsys.readouterr().err
    assert types == ["fp32", "bf16", "bf16", "fp32"]
    name, half = "knn_top1 k=20 T=0.1", "knn_top1 k=20 T=0.1 knn-instdisc-bf16-v2"
    logged = [(line["step"], line.get("epoch"), line.get(name), line.get(half)) for line in run.metrics() if name in line or half in line]
    assert logged == [(0, None, 0.95, None), (5, 0, None, 0.5), (10, 1, None, 0.4), (10, None, 0.97, None)]
    found = [(number["protocol"], number["when"], number["value"], number["arguments"].get("epoch")) for number in run.results()["numbers"]]
    assert found == [("knn-instdisc-v2", "last", 0.97, None), ("knn-instdisc-bf16-v2", "best", 0.5, 0)]


def test_a_run_from_before_epochs_had_protocols_of_their_own_goes_on_as_it_began():
    for precision, protocol in (("fp32", "knn-instdisc-v2"), ("bf16", "knn-instdisc-bf16-v2"), ("fp16", "knn-instdisc-fp16-v2")):
        evaluation = knn_evaluation.KNNEvaluation(short_recipe("simclr", precision=precision), None, None, None, None)
        assert evaluation.epoch_protocol == protocol and protocol in PROTOCOLS
        evaluation.best = {"knn_top1 k=20 T=0.1": {"protocol": "knn-instdisc-v2"}}  # as a checkpoint holds it
        assert evaluation.epoch_protocol == "knn-instdisc-v2"


def test_each_step_takes_the_learning_rate_of_its_number(tmp_path, monkeypatch):
    """Warm-up over the five steps of the first epoch, then a cosine to 0 at the last of fifteen."""
    taken, original = [], loop.Training._train_step

    def watched(self, *arguments):
        taken.append(self.optimizer.param_groups[0]["lr"])
        return original(self, *arguments)

    monkeypatch.setattr(loop.Training, "_train_step", watched)
    train(short_recipe("simclr", lr=0.01, lr_scaling="none", test_split=None), tmp_path)
    assert len(taken) == 15 and taken[:5] == pytest.approx([0.002, 0.004, 0.006, 0.008, 0.01])
    assert taken[5] == pytest.approx(0.01) and taken[14] == pytest.approx(0) and taken[5:] == sorted(taken[5:], reverse=True)


def test_weight_decay_and_warm_up_follow_the_recipe(tmp_path, monkeypatch):
    taken = []
    original = loop.Training._train_step

    def watched(self, *arguments):
        taken.append([(group["lr"], group["weight_decay"]) for group in self.optimizer.param_groups])
        return original(self, *arguments)

    monkeypatch.setattr(loop.Training, "_train_step", watched)
    changes = {"lr": 0.01, "lr_scaling": "none", "warmup_lr": 0.2, "weight_decay": 0.1, "weight_decay_end": 0.3, "test_split": None}
    train(short_recipe("simclr", **changes), tmp_path)
    assert [rate for (rate, _), *_ in taken[:5]] == pytest.approx([0.002, 0.004, 0.006, 0.008, 0.01])
    decays = [decay for (_, decay), *_ in taken]
    assert decays[0] == pytest.approx(0.1) and decays[5] == pytest.approx(0.15) and decays[14] == pytest.approx(0.2978148, abs=1e-6)
    assert {decay for _, (_, decay) in taken} == {0.0}, "norms and biases"


@pytest.mark.parametrize("clip", ["global", "tensor", "network"])
def test_clipping_bounds_the_step(clip, tmp_path):
    changes = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "lr": 1.0, "schedule": "constant", "warmup_epochs": 0, "epochs": 1}
    recipe = short_recipe("simclr", clip_norm=0.01, clip=clip, **changes)
    torch.manual_seed(recipe.seed)
    start = recipe.make_method()
    run = train(recipe, tmp_path / "run")
    end = sslzoo.load(run.folder)
    moved = {name: (value - dict(end.named_parameters())[name]).detach().norm() for name, value in start.named_parameters()}
    encoder = [value for name, value in moved.items() if name.startswith("backbone")]
    parts = {
        "global": [list(moved.values())], "tensor": [[value] for value in moved.values()],
        "network": [encoder, [value for name, value in moved.items() if not name.startswith("backbone")]],
    }  # fmt: skip
    assert all(float(torch.stack(part).norm()) <= 5 * 0.01 * 1.001 for part in parts[clip]), "five steps"
    assert (float(torch.stack(list(moved.values())).norm()) > 0.05) is (clip == "tensor") or clip == "network"
    assert clip != "network" or float(torch.stack(encoder).norm()) > 0.02


def test_the_run_folder_is_complete(tmp_path):
    run = train(short_recipe("dino", knn_every=2), tmp_path / "run")
    names = {file.name for file in run.folder.iterdir()}
    assert names >= {*WEIGHTS, "config.json", "preprocessor_config.json", "recipe.yaml", "metrics.jsonl", "results.json"}
    assert not names & {"checkpoints", ".lock"}
    results = run.results()
    assert results["training"]["steps"] == 15 and results["training"]["images"] == TRAIN_IMAGES
    assert results["training"]["images_per_second"] > 0 and results["training"]["peak_memory_bytes"] > 10**7
    measured = {(number["metric"], number["arguments"]["k"], number["when"]) for number in results["numbers"]}
    assert {("knn_top1", 20, "last"), ("knn_top5", 200, "last"), ("knn_top1", 20, "best")} <= measured
    for number in results["numbers"]:
        assert number["provenance"]["test_images"] == TEST_IMAGES and len(number["provenance"]["test_fingerprint"]) == 64
        assert number["provenance"]["weights_sha256"] == (run.weights_sha256 if number["when"] == "last" else None)
    lines = run.metrics()
    assert [line["step"] for line in lines] == sorted(line["step"] for line in lines)
    assert [line["step"] for line in lines if "knn_top1 k=20 T=0.1" in line] == [0, 10, 15]
    assert read_recipe(run.folder / "recipe.yaml").flat() == short_recipe("dino", knn_every=2).flat()


def test_the_best_epoch_is_kept_next_to_the_last(tmp_path, monkeypatch):
    values = iter([0.95, 0.5, 0.9, 0.4])  # the first is of the untrained encoder

    def measured(*arguments):
        arguments = {"k": 1, "temperature": 1}
        number = {"protocol": knn_evaluation.PROTOCOL, "dataset": "d", "split": "s", "metric": "knn_top1", "data": {}}
        return [{**number, "arguments": arguments, "value": next(values)}]

    monkeypatch.setattr(knn_evaluation, "measure", measured)
    numbers = train(short_recipe("simclr", knn_every=1), tmp_path / "run").results()["numbers"]
    assert [(number["when"], number["value"], number["arguments"].get("epoch")) for number in numbers] == [
        ("last", 0.4, None), ("best", 0.9, 1),
    ]  # fmt: skip


def test_a_finished_run_is_not_trained_again(tmp_path):
    recipe = short_recipe("simclr", epochs=1)
    run = train(recipe, tmp_path / "run")
    before = {file.name: file.stat().st_mtime_ns for file in run.folder.iterdir()}
    train(recipe, tmp_path / "run", resume=True)
    assert {file.name: file.stat().st_mtime_ns for file in run.folder.iterdir()} == before


def test_an_existing_run_is_not_overwritten(tmp_path, monkeypatch):
    recipe = short_recipe("simclr")
    train_until(5, recipe, tmp_path / "run", monkeypatch)
    with pytest.raises(InputError, match="--resume"):
        train(recipe, tmp_path / "run")
    with pytest.raises(InputError, match="lr: 0.01 -> 0.02"):
        train(short_recipe("simclr", lr=0.02), tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "checkpoints" / "step-4").is_dir()


def test_a_second_process_in_the_same_folder_is_refused(tmp_path):
    with run_folder.locked(tmp_path), pytest.raises(InputError, match="another process"), run_folder.locked(tmp_path):
        pass


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_checkpoints(value, tmp_path, monkeypatch):
    original = loop.Training._train_step

    def breaking(self, *arguments):
        views = original(self, *arguments)
        if self.step == 8:
            self.logs.sums["loss"] = self.logs.sums["loss"] * value
        return views

    monkeypatch.setattr(loop.Training, "_train_step", breaking)
    with pytest.raises(TrainingError, match=f"loss is {value} before step 10.*step 8"):
        train(short_recipe("simclr", checkpoint_every=8), tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": TRAIN_IMAGES + 1}, f"{TRAIN_IMAGES + 1} is more than the {TRAIN_IMAGES} images"),
        ({"batch_size": 9, "accumulate": 2}, "cannot be divided"),
        ({"view.both.count": 3}, "view.both.count is 3: simclr needs 2"),
        ({"dataset": "no/such/folder"}, "no/such/folder"),
        ({"train_split": "trian"}, "did you mean 'train'"),
        ({"tracker": "trackio"}, "trackio"),
    ],
)
def test_a_recipe_that_cannot_be_trained_is_refused(changes, message, tmp_path):
    with pytest.raises(InputError, match=message):
        train_run(short_recipe("simclr", **changes), tmp_path / "run", cpu=True)
    assert not (tmp_path / "run" / "results.json").exists()


def write_images(folder: Path, count: int, seed: int = 0) -> None:
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for index in range(count):
        height, width = random.integers(16, 40, 2)
        Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)).save(folder / f"{index:04}.png")


def test_a_folder_of_unlabelled_images_of_all_sizes_trains(tmp_path):
    write_images(tmp_path / "photos", 40)
    (tmp_path / "photos" / "0007.png").write_bytes(b"no image at all")
    run = train(short_recipe("simclr", dataset=str(tmp_path / "photos"), batch_size=16, epochs=2), tmp_path / "run")
    assert run.results()["numbers"] == []
    assert run.results()["training"]["skipped_images"] == ["0007.png"]
    assert run.results()["training"]["images"] == 39


def test_a_streamed_data_set_trains_like_a_resident_one(tmp_path, monkeypatch):
    write_images(tmp_path / "photos", 40)
    # Canvas sizes differ, and with them the rounding of sums, so the runs drift apart a little from the same first step.
    recipe = short_recipe("simclr", dataset=str(tmp_path / "photos"), batch_size=16, epochs=2, optimizer="sgd", lr=0.01, log_every=1)
    resident = train(recipe, tmp_path / "resident")
    original = images.load_images
    monkeypatch.setattr(images, "load_images", lambda *arguments, **options: original(*arguments, **options, budget=0))
    streamed = train(recipe, tmp_path / "streamed")
    losses = [[line["loss"] for line in run.metrics()] for run in (resident, streamed)]
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-5) and losses[0] == pytest.approx(losses[1], rel=1e-2)


def test_labels_never_reach_training(tmp_path, monkeypatch):
    recipe = short_recipe("simclr", test_split=None, epochs=1)
    train(recipe, tmp_path / "labelled")
    original = images.load_images

    def shuffled(*arguments, **options):
        found = original(*arguments, **options)
        found._labels = found._labels.flip(0)
        return found

    monkeypatch.setattr(images, "load_images", shuffled)
    train(recipe, tmp_path / "shuffled")
    assert same_weights(tmp_path / "labelled", tmp_path / "shuffled")


def test_every_epoch_has_every_image_once_in_its_own_order(tmp_path, monkeypatch):
    read, original = [], ResidentImages.batches

    def watched(self, order):
        for batch in original(self, order):
            read.append(batch.samples.tolist())
            yield batch

    monkeypatch.setattr(ResidentImages, "batches", watched)
    for seed in (0, 1):
        train(short_recipe("simclr", test_split=None, epochs=2, seed=seed), tmp_path / str(seed))
    orders = [sum(read[first : first + 5], []) for first in range(0, 20, 5)]
    assert len(read) == 20 and all(len(set(order)) == 5 * 16 for order in orders)
    for first, second in itertools.combinations(orders, 2):
        assert sum(one == other for one, other in zip(first, second, strict=True)) < 20, f"one in {TRAIN_IMAGES} by chance"
        assert set(first) != set(second), "each epoch leaves out other images"


def test_logged_values_between_two_checkpoints_are_not_lost(tmp_path, monkeypatch):
    """A checkpoint after step 3, a log line after step 4: the line holds the means over all four steps."""
    recipe = short_recipe("simclr", test_split=None, epochs=1, log_every=4, checkpoint_every=3)
    train(recipe, tmp_path / "whole")
    train_until(3, recipe, tmp_path / "stopped", monkeypatch)
    train(recipe, tmp_path / "stopped", resume=True)
    lines = [[{key: value for key, value in line.items() if key != "images_per_second"} for line in Run(folder).metrics()]
             for folder in (tmp_path / "whole", tmp_path / "stopped")]  # fmt: skip
    assert lines[0] == lines[1] and [line["step"] for line in lines[0]] == [4, 5]


def test_the_best_epoch_before_an_interruption_stays_the_best(tmp_path, monkeypatch):
    recipe = short_recipe("simclr", knn_every=1, checkpoint_every=5)
    values = iter([0.95, 0.9, 0.5, 0.4])  # the first is of the untrained encoder
    monkeypatch.setattr(knn, "knn_accuracy", lambda *arguments: {("top1", 20, 0.1): next(values)})
    train_until(7, recipe, tmp_path / "run", monkeypatch)
    numbers = train(recipe, tmp_path / "run", resume=True).results()["numbers"]
    assert [(number["when"], number["value"], number["arguments"].get("epoch")) for number in numbers] == [
        ("last", 0.4, None), ("best", 0.9, 0),
    ]  # fmt: skip
    assert {number["provenance"]["precision"] for number in numbers} == {"fp32"}


def test_parameters_frozen_for_one_epoch_move_in_the_next(tmp_path):
    changes = {"optimizer": "sgd", "lr": 0.1, "warmup_epochs": 0, "frozen_epochs": 1, "test_split": None}
    moved = {}
    for epochs in (1, 2):
        recipe = short_recipe("dino", epochs=epochs, **changes)
        torch.manual_seed(recipe.seed)
        method = recipe.make_method()
        names = {id(parameter): name for name, parameter in method.named_parameters()}
        frozen = [names[id(parameter)] for group in method.parameter_groups() if group.frozen_epochs for parameter in group.parameters]
        start = {name: value.clone() for name, value in method.state_dict().items()}
        end = sslzoo.load(train(recipe, tmp_path / str(epochs)).folder).state_dict()
        moved[epochs] = {name in frozen for name, value in end.items() if not torch.equal(value, start[name])}
        assert frozen
    assert moved == {1: {False}, 2: {False, True}}


@pytest.mark.slow
def test_gradient_checkpointing_trains_the_same_weights_bit_for_bit(tmp_path):
    """It is in no file but the recipe, and may be switched on while a run is resumed."""
    recipe = short_recipe("mae", epochs=1, batch_size=40)
    plain, checkpointed = (
        train(dataclasses.replace(recipe, gradient_checkpointing=value), tmp_path / str(value)).folder for value in (False, True)
    )
    assert same_weights(plain, checkpointed)
    assert (plain / "config.json").read_bytes() == (checkpointed / "config.json").read_bytes()
    assert "gradient_checkpointing" in run_folder._CHANGEABLE
