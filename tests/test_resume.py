"""Resuming a run: which keys may change, which must not, and files that an interruption left behind."""

# ruff: noqa: F811 - fixtures of another file are arguments of tests

import os
import re
import shutil
import signal
from pathlib import Path

import pytest
import torch
from small_digits import small_digits
from test_training import SHORT, killed, same_weights, short_recipe, train, train_until, uninterrupted  # noqa: F401 - the fixtures

from sslzoo import inference
from sslzoo.checkpoint import load_checkpoint, save_checkpoint
from sslzoo.cli import main
from sslzoo.errors import InputError, StoppedError, TrainingError
from sslzoo.hub import write_card
from sslzoo.run import Run
from sslzoo.stopping import TimeLimit
from sslzoo.training import checkpoints, knn_evaluation, loop, results


@pytest.fixture
def stopped(killed, tmp_path):
    """A copy of the folder of a run that was killed after step 9, one step after the checkpoint of step 8."""
    return shutil.copytree(killed, tmp_path / "stopped")


def test_resume_needs_only_the_folder(stopped, uninterrupted, capsys):
    assert main(["train", "--resume", "--cpu", "--output", str(stopped)]) == 0
    assert same_weights(stopped, uninterrupted)
    assert "from step 8" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--resume"], ["--output", "x"]])
def test_a_recipe_or_a_folder_to_resume_is_needed(arguments, capsys):
    assert main(["train", *arguments]) == 2
    assert "--resume --output" in capsys.readouterr().err


def test_a_resumed_run_may_change_how_it_is_logged(stopped, uninterrupted):
    changes = ["--set", "log_every=1", "checkpoint_every=100", "knn_every=1"]
    assert main(["train", "--resume", "--cpu", "--output", str(stopped), *changes]) == 0
    assert same_weights(stopped, uninterrupted)
    run = Run(stopped)
    assert run.recipe.log_every == 1 and {9, 11, 13} <= {line["step"] for line in run.metrics()}
    assert run.results()["training"]["resumed"] == ["step 8: checkpoint_every 4 -> 100, knn_every 0 -> 1, log_every 2 -> 1"]
    assert "Changed on the way | step 8: " in write_card(stopped).read_text()


def test_every_change_on_the_way_is_recorded(stopped, monkeypatch):
    train_until(13, short_recipe("simclr", log_every=1), stopped, monkeypatch)
    train(short_recipe("simclr", log_every=5), stopped, resume=True)
    assert Run(stopped).results()["training"]["resumed"] == ["step 8: log_every 2 -> 1", "step 12: log_every 1 -> 5"]


def test_the_time_before_an_interruption_counts(stopped):
    checkpoint = load_checkpoint(stopped / "checkpoints")
    checkpoint.state["seconds"] = {"all": 10_000.0, "steps": 8_000.0}
    save_checkpoint(stopped / "checkpoints", 8, checkpoint)
    results = train(short_recipe("simclr"), stopped, resume=True).results()["training"]
    assert results["seconds"] > 10_000 and results["images_per_second"] < 15 * 64 / 8_000 + 0.1


def test_a_resumed_run_may_train_more_epochs(stopped):
    assert main(["train", "--resume", "--cpu", "--output", str(stopped), "--set", "epochs=4"]) == 0
    results = Run(stopped).results()["training"]
    assert results["steps"] == 20 and results["resumed"][0].startswith("step 8: epochs 3 -> 4")
    assert Run(stopped).recipe.epochs == 4


def test_fewer_epochs_than_already_trained_are_refused(stopped):
    with pytest.raises(InputError, match="epochs 1 are fewer than are trained already: 8 of 5 steps"):
        train(short_recipe("simclr", epochs=1), stopped, resume=True)
    assert Run(stopped).recipe.epochs == 3


@pytest.mark.parametrize(("key", "value"), [("lr", 0.02), ("batch_size", 128), ("seed", 1), ("temperature", 0.7), ("view.both.blur", 0.7)])
def test_a_key_that_would_make_another_run_is_refused(key, value, stopped):
    before = {file.name: file.read_bytes() for file in stopped.iterdir() if file.is_file()}
    with pytest.raises(InputError, match=f"{key}: .* -> {value}"):
        train(short_recipe("simclr", **{key: value}), stopped, resume=True)
    assert {file.name: file.read_bytes() for file in stopped.iterdir() if file.is_file()} == before


def other_groups(checkpoint):
    _, second = checkpoint.optimizer["optimizer"]["param_groups"]
    last = {**second, "params": [second["params"].pop()]}
    checkpoint.optimizer["optimizer"]["param_groups"].append(last)


def other_sizes(checkpoint):
    first, second = checkpoint.optimizer["optimizer"]["param_groups"]
    first["params"].append(second["params"].pop(0))


def other_order(checkpoint):
    states = checkpoint.optimizer["optimizer"]["state"]
    states[0], states[len(states) - 1] = states[len(states) - 1], states[0]


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (other_groups, "its groups have 8, 15 and 1 parameters, not 8 and 16"),
        (other_sizes, "its groups have 9 and 15 parameters, not 8 and 16"),
        (other_order, "its groups have other parameters"),
        (lambda saved: [group.pop("lr_factor") for group in saved.optimizer["optimizer"]["param_groups"]], "it has no 'lr_factor'"),
        (lambda saved: saved.state.pop("step"), "it has no 'step'"),
        (lambda saved: saved.tensors.pop("projector.0.weight"), "1 tensors differ, the first is 'projector.0.weight'"),
        (lambda saved: saved.tensors.update(queue=torch.zeros(2)), "1 tensors differ, the first is 'queue'"),
        (lambda saved: saved.tensors.update({"projector.0.weight": torch.zeros(3, 5)}), "the first is 'projector.0.weight'"),
    ],
)  # fmt: skip
def test_a_checkpoint_of_another_version_is_refused_in_one_line(change, difference, stopped):
    checkpoint = load_checkpoint(stopped / "checkpoints")
    change(checkpoint)
    save_checkpoint(stopped / "checkpoints", 8, checkpoint)
    before = {file.name: file.read_bytes() for file in stopped.iterdir() if file.is_file()}
    with pytest.raises(InputError, match=f"of another version .*{re.escape(difference)}.: --resume with the version that wrote it, or"):
        train(short_recipe("simclr"), stopped, resume=True)
    assert {file.name: file.read_bytes() for file in stopped.iterdir() if file.is_file()} == before


class TestData:
    @pytest.fixture
    def photos(self, tmp_path):
        from test_training import write_images

        write_images(tmp_path / "photos", 40)
        return tmp_path / "photos"

    def recipe(self, photos):
        return short_recipe("simclr", dataset=str(photos), batch_size=8)

    def test_the_same_images_may_have_moved(self, photos, tmp_path, monkeypatch):
        train_until(7, self.recipe(photos), tmp_path / "run", monkeypatch)
        moved = photos.rename(tmp_path / "moved")
        train(self.recipe(moved), tmp_path / "run", resume=True)
        train(self.recipe(moved), tmp_path / "whole")
        assert same_weights(tmp_path / "run", tmp_path / "whole")

    def test_other_images_are_refused(self, photos, tmp_path, monkeypatch):
        from test_training import write_images

        train_until(7, self.recipe(photos), tmp_path / "run", monkeypatch)
        write_images(tmp_path / "others", 40, seed=1)
        with pytest.raises(InputError, match="does not hold the images"):
            train(self.recipe(tmp_path / "others"), tmp_path / "run", resume=True)


def test_a_run_without_a_checkpoint_starts_from_scratch(tmp_path, monkeypatch, uninterrupted):
    train_until(2, short_recipe("simclr", lr=1.0), tmp_path / "run", monkeypatch)
    train(short_recipe("simclr"), tmp_path / "run")
    assert same_weights(tmp_path / "run", uninterrupted)
    assert [line["step"] for line in Run(tmp_path / "run").metrics()] == [line["step"] for line in Run(uninterrupted).metrics()]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "results.json"])
def test_a_folder_of_another_model_is_not_written_into(name, tmp_path):
    (tmp_path / name).write_text("{}")
    with pytest.raises(InputError, match=f"holds {name}"):
        train(short_recipe("simclr"), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_a_finished_run_is_refused_as_finished(tmp_path):
    train(short_recipe("simclr", epochs=1), tmp_path)
    with pytest.raises(InputError, match="is finished .epochs: 1 -> 2"):
        train(short_recipe("simclr", epochs=2), tmp_path, resume=True)


def test_checkpoints_of_a_run_that_was_killed_at_its_end_are_removed(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(run):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(results, "remove_checkpoints", killed)
        with pytest.raises(Killed):
            train(short_recipe("simclr"), tmp_path)
    (tmp_path / ".lock").touch()
    assert (tmp_path / "checkpoints").is_dir()
    train(short_recipe("simclr"), tmp_path, resume=True)
    assert not (tmp_path / "checkpoints").exists() and not (tmp_path / ".lock").exists()


def test_truncated_metrics_are_not_padded(stopped, uninterrupted, caplog):
    file = stopped / "metrics.jsonl"
    file.write_bytes(file.read_bytes()[:200])
    train(short_recipe("simclr"), stopped, resume=True)
    assert b"\0" not in file.read_bytes() and same_weights(stopped, uninterrupted)
    assert "the curves have a gap" in caplog.text
    steps = [line["step"] for line in Run(stopped).metrics()]
    assert steps == sorted(steps) and steps[-5:] == [10, 12, 14, 15, 15]


def test_a_full_disk_leaves_no_partial_line_of_metrics(stopped, monkeypatch):
    """Writes are cut short by a wrapper, as /dev/full cannot stand in for metrics.jsonl."""
    run, before = Run(stopped), (stopped / "metrics.jsonl").read_bytes()
    import builtins

    original = builtins.open

    class Full:
        def __init__(self, file):
            self.file, self.name = file, "metrics.jsonl"

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, line):
            return self.file.write(line[:7])

    monkeypatch.setattr(builtins, "open", lambda *arguments, **options: Full(original(*arguments, **options)))
    with pytest.raises(OSError, match="disk is full"):
        run.append_metrics({"step": 9, "loss": 1.0})
    monkeypatch.undo()
    assert (stopped / "metrics.jsonl").read_bytes() == before


def test_the_recipe_is_never_partially_written(stopped, monkeypatch):
    """A run killed while writing recipe.yaml leaves the previous file."""
    from pathlib import Path

    before = (stopped / "recipe.yaml").read_bytes()

    def killed(self, text, **options):
        original(self, text[:5], **options)
        raise KeyboardInterrupt

    original = Path.write_text
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", killed)
        with pytest.raises(KeyboardInterrupt):
            train(short_recipe("simclr", log_every=1), stopped, resume=True)
    assert (stopped / "recipe.yaml").read_bytes() == before


class TestSignals:
    def signalled(self, step, number, monkeypatch):
        original = loop.Training._train_step

        def receiving(self, *arguments):
            if self.step == step:
                os.kill(os.getpid(), number)
            return original(self, *arguments)

        monkeypatch.setattr(loop.Training, "_train_step", receiving)

    # Step 9 is the last of an epoch.
    @pytest.mark.parametrize(("number", "step"), [(signal.SIGINT, 0), (signal.SIGTERM, 6), (signal.SIGTERM, 9)])
    def test_saves_at_the_end_of_the_step_and_resumes_from_there(self, number, step, tmp_path, monkeypatch, uninterrupted):
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        with monkeypatch.context() as patch:
            self.signalled(step, number, patch)
            with pytest.raises(StoppedError, match=f"{number.name} at step {step + 1}, saved: .*--resume --output"):
                train(short_recipe("simclr"), tmp_path)
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
        assert (tmp_path / "checkpoints" / f"step-{step + 1}").is_dir() and not (tmp_path / ".lock").exists()
        train(short_recipe("simclr"), tmp_path, resume=True)
        assert same_weights(tmp_path, uninterrupted)
        losses = [[(line["step"], line.get("loss")) for line in Run(folder).metrics()] for folder in (tmp_path, uninterrupted)]
        assert losses[0] == losses[1]

    def test_an_evaluation_that_was_due_is_made_up_for(self, tmp_path, monkeypatch):
        recipe = short_recipe("simclr", knn_every=1)
        with monkeypatch.context() as patch:
            self.signalled(4, signal.SIGTERM, patch)  # the last step of the first epoch
            with pytest.raises(StoppedError):
                train(recipe, tmp_path)
        train(recipe, tmp_path, resume=True)
        measured = [(line["step"], line.get("epoch")) for line in Run(tmp_path).metrics() if "knn_top1 k=20 T=0.1" in line]
        assert measured == [(0, None), (5, 0), (10, 1), (15, 2)]

    def test_says_so_if_the_step_could_not_be_saved(self, tmp_path, monkeypatch):
        from sslzoo.training import checkpoints

        def full(*arguments):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(checkpoints, "save_checkpoint", full)
        self.signalled(2, signal.SIGTERM, monkeypatch)
        with pytest.raises(StoppedError, match="at step 3, which could not be saved: nothing is saved"):
            train(short_recipe("simclr"), tmp_path)

    def test_the_command_line_exits_with_the_code_of_the_signal(self, tmp_path, monkeypatch, capsys):
        self.signalled(2, signal.SIGTERM, monkeypatch)
        changes = [f"{key}={value}" for key, value in SHORT.items()]
        assert main(["train", "digits/simclr", "--cpu", "--output", str(tmp_path), "--set", *changes]) == 143
        assert capsys.readouterr().err.strip().splitlines()[-1].startswith("stopped by SIGTERM at step 3, saved")

    def test_a_second_interrupt_stops_at_once(self, tmp_path, monkeypatch):
        original = loop.Training._train_step

        def twice(self, *arguments):
            if self.step == 2:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)
            return original(self, *arguments)

        monkeypatch.setattr(loop.Training, "_train_step", twice)
        with pytest.raises(KeyboardInterrupt):
            train(short_recipe("simclr"), tmp_path)
        assert not (tmp_path / "checkpoints").exists()


def test_tensorboard_has_each_step_once_after_a_resume(tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = short_recipe("simclr", tracker="tensorboard", log_every=1)
    train_until(7, recipe, tmp_path, monkeypatch)
    train(recipe, tmp_path, resume=True)
    events = EventAccumulator(str(tmp_path / "sslzoo"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == list(range(1, 16))


def test_frozen_prototypes_gather_no_momentum():
    """With a learning rate of 0 alone, the momentum of the frozen epoch would be released in the first unfrozen step."""
    from sslzoo.optim import ParameterGroup, make_optimizer, set_learning_rates

    for name in ("sgd", "lars"):
        weight = torch.nn.Parameter(torch.zeros(1))
        group = ParameterGroup([weight], decay=False, frozen_epochs=1)
        optimizer = make_optimizer([group], name, 0.0, 0.9, (0.9, 0.999), decay_norm_and_bias=False)
        for step in range(60):
            weight.grad = torch.ones(1)
            set_learning_rates(optimizer, 1.0, 1.0, epoch=int(step >= 50))
            optimizer.step()
            assert step >= 50 or weight.item() == 0
        # The sum over ten steps of (1 - 0.9^n) / (1 - 0.9), by hand.
        assert weight.item() == pytest.approx(-41.38, abs=0.01), name


def test_environment_variables_do_not_override_the_recipe(uninterrupted, tmp_path, monkeypatch, caplog):
    variables = {"GRADIENT_ACCUMULATION_STEPS": "4", "MIXED_PRECISION": "bf16", "DYNAMO_BACKEND": "eager"}
    for name, value in variables.items():
        monkeypatch.setenv(f"ACCELERATE_{name}", value)
    train(short_recipe("simclr"), tmp_path)
    assert same_weights(tmp_path, uninterrupted)
    for name, value in variables.items():
        assert f"ACCELERATE_{name}={value} is ignored" in caplog.text and os.environ[f"ACCELERATE_{name}"] == value


@pytest.mark.parametrize("variable", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_a_launch_that_shards_the_model_is_refused(variable, tmp_path, monkeypatch):
    monkeypatch.setenv(variable, "true")
    with pytest.raises(InputError, match=variable):
        train(short_recipe("simclr"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_half_precision_on_a_cpu_is_refused(tmp_path):
    with pytest.raises(InputError, match="fp16 needs an accelerator.*bf16 or fp32"):
        train(short_recipe("simclr", precision="fp16"), tmp_path / "run")


def test_weights_that_are_not_finite_end_the_run(tmp_path, monkeypatch):
    """The loss of the step that broke them was still finite."""
    original = loop.Training._train_step

    def breaking(self, *arguments):
        views = original(self, *arguments)
        with torch.no_grad():
            next(self.method.encoder.parameters()).fill_(float("nan"))
        return views

    monkeypatch.setattr(loop.Training, "_train_step", breaking)
    with pytest.raises(TrainingError, match="feature_std is nan before step 1"):
        train(short_recipe("simclr", log_every=1), tmp_path / "run")


def test_a_run_prints_its_plan_progress_and_summary(tmp_path, monkeypatch, capsys):
    from sslzoo.training import logs

    clock = iter(range(0, 10**6, 31))
    monkeypatch.setattr(logs.time, "monotonic", lambda: next(clock))
    changes = [f"dataset={small_digits()}", "epochs=2", "batch_size=16", "log_every=1"]
    assert main(["train", "digits/simclr", "--cpu", "--output", str(tmp_path / "run"), "--set", *changes]) == 0
    out, err = capsys.readouterr()
    assert out.strip() == str(tmp_path / "run")
    for said in (
        f"85 of {Path(small_digits()).name} (train), 10 classes; measured on 80 (test)", "2 x 16 px (both)",
        "10, 5 an epoch of 16 images", "fp32", "% untrained, ",
    ):  # fmt: skip
        assert said in err
    assert err.count(" left\n") >= 3 and "loss" in err and "images/s" in err
    assert "effective rank" in err and "no sign of collapse" in err and "sslzoo card" in err


class Clock:
    """Seconds that pass only where a test says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def slows(self, patch, owner, name, seconds):
        """The function takes so many seconds from now on."""
        original = getattr(owner, name)

        def slow(*arguments, **options):
            self.now += seconds
            return original(*arguments, **options)

        patch.setattr(owner, name, slow)


class TestTimeLimit:
    def in_slots(self, recipe, folder, clock, seconds):
        """Trains in as many calls as it takes; returns the messages and ends of all but the last."""
        said = []
        while True:
            limit = TimeLimit(seconds, clock=clock)
            try:
                train(recipe, folder, resume=True, limit=limit)
            except StoppedError as error:
                assert error.exit_code == 75
                said.append((str(error), limit.elapsed))
            else:
                return said

    def test_a_run_in_many_calls_ends_as_one_in_a_single_call(self, tmp_path, monkeypatch, uninterrupted):
        clock = Clock()
        clock.slows(monkeypatch, loop.Training, "_train_step", 10)
        clock.slows(monkeypatch, loop, "load_split_pair", 5)
        clock.slows(monkeypatch, checkpoints, "save_checkpoint", 7)
        said = self.in_slots(short_recipe("simclr"), tmp_path, clock, 110)
        # 5 s of reading, 10 a step and 7 a checkpoint: after the first step, after step 4, and at the end.
        steps = [int(re.search(r"time limit at step (\d+) of 15, saved", message)[1]) for message, _ in said]
        assert steps == [7, 14] and [elapsed for _, elapsed in said] == [96, 96]
        assert "7 steps in this call, and 5 of 110 s passed before the first" in said[0][0]
        assert same_weights(tmp_path, uninterrupted)
        losses = [[(line["step"], line.get("loss")) for line in Run(folder).metrics()] for folder in (tmp_path, uninterrupted)]
        assert losses[0] == losses[1]

    def test_is_kept_where_saving_is_slow(self, tmp_path, monkeypatch):
        clock = Clock()
        clock.slows(monkeypatch, loop.Training, "_train_step", 10)
        clock.slows(monkeypatch, checkpoints, "save_checkpoint", 60)
        ((message, elapsed),) = self.in_slots(short_recipe("simclr", epochs=2, checkpoint_every=100), tmp_path, clock, 200)
        assert "at step 7 of" in message and elapsed == 190, "60 s of them for the checkpoint after the first step, 60 for the last"

    def test_leaves_at_least_one_step_to_each_call(self, tmp_path, monkeypatch):
        clock = Clock()
        clock.slows(monkeypatch, loop, "load_split_pair", 50)
        said = self.in_slots(short_recipe("simclr", epochs=1, batch_size=40), tmp_path, clock, 20)
        assert len(said) == 2 and all("1 steps in this call, and 50 of 20 s passed" in message for message, _ in said)

    def test_an_evaluation_that_would_end_too_late_opens_the_next_call(self, tmp_path, monkeypatch):
        clock = Clock()
        recipe = short_recipe("simclr", epochs=2, knn_every=1)
        train(recipe, tmp_path / "whole")
        clock.slows(monkeypatch, loop.Training, "_train_step", 10)
        clock.slows(monkeypatch, knn_evaluation.KNNEvaluation, "measure", 40)
        said = self.in_slots(recipe, tmp_path / "run", clock, 125)
        assert [int(re.search(r"at step (\d+)", message)[1]) for message, _ in said] == [5, 10]
        assert all(elapsed <= 125 for _, elapsed in said) and same_weights(tmp_path / "run", tmp_path / "whole")
        key = "knn_top1 k=20 T=0.1"
        curves = [[(line["step"], line[key]) for line in Run(tmp_path / name).metrics() if key in line] for name in ("run", "whole")]
        assert curves[0] == curves[1] and len(curves[0]) == 3

    def test_the_same_command_goes_on_until_everything_is_measured(self, tmp_path, monkeypatch, capsys):
        """Without any time, each call does the least that it can."""
        monkeypatch.setattr(inference.constants, "HF_ASSETS_CACHE", str(tmp_path / "cache"))
        changes = [f"{key}={value}" for key, value in SHORT.items()]
        changes += ["epochs=1", "batch_size=40", "protocols=[knn-instdisc-v2, linear-features-v1]"]
        command = ["train", "digits/simclr", "--cpu", "--output", str(tmp_path / "run"), "--minutes", "0", "--evaluate", "--set", *changes]
        codes = [main(command)]
        while codes[-1] == 75:
            codes.append(main(command))
        out, err = capsys.readouterr()
        # A call for each of two steps, for kNN, for the features, and for what is made of them.
        assert codes == 4 * [75] + [0], err
        assert "before linear-features-v1: the same command continues" in err and "with the features of the training images saved" in err
        assert {number["protocol"] for number in Run(tmp_path / "run").results()["numbers"]} == {"knn-instdisc-v2", "linear-features-v1"}
        assert out.count("knn_top1 (k 200,") == 2 and out.count("linear_top1") == 1 and not [*(tmp_path / "cache").rglob("*.json")]
