"""Trackers: any that Accelerate knows, by name; one that fails costs a warning, never the run."""

import importlib.machinery
import sys
import types
from pathlib import Path

import accelerate.tracking
import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, TensorBoardTracker
from accelerate.utils import LoggerType
from small_digits import small_digits

from sslzoo.errors import InputError
from sslzoo.recipe import read_recipe
from sslzoo.training import train

SHORT = {"epochs": 1, "batch_size": 16, "warmup_epochs": 0, "log_every": 1, "knn_every": 0, "dataset": small_digits(), "test_split": None}


def run_with(tracker: str, folder: Path):
    return train(read_recipe("digits/simclr", {**SHORT, "tracker": tracker}), folder, cpu=True)


def test_each_tracker_of_accelerate_is_a_value_of_the_key():
    for name in LOGGER_TYPE_TO_CLASS:
        assert read_recipe("digits/simclr", {"tracker": name}).tracker == name
    with pytest.raises(InputError, match="unknown tracker 'wandbb': did you mean 'wandb'"):
        read_recipe("digits/simclr", {"tracker": "wandbb"})


@pytest.mark.parametrize("when", ["start", "log", "finish"])
def test_a_tracker_that_fails_costs_a_warning(when, tmp_path, monkeypatch, caplog):
    def fails(*_, **__):
        raise ConnectionError("the tracker's server is gone")

    monkeypatch.setattr(TensorBoardTracker, when, fails)
    run = run_with("tensorboard", tmp_path / "run")
    assert run.results()["training"]["steps"] == 5 and len(run.metrics()) == 5
    assert [record.getMessage() for record in caplog.records if "tensorboard" in record.getMessage()] == [
        "cannot log to tensorboard, the run continues: the tracker's server is gone"
    ]


def test_a_run_has_its_folder_s_name_in_the_tracker(tmp_path, monkeypatch):
    """With a module in the place of wandb, which is not installed here."""
    started, logged, finished = {}, [], []
    fake = types.ModuleType("wandb")
    fake.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    fake.config = types.SimpleNamespace(update=lambda values, **_: started.update(config=values))
    log = types.SimpleNamespace(log=lambda values, step: logged.append((step, values)), finish=lambda: finished.append(True))
    fake.init = lambda **arguments: started.update(arguments) or log
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr(accelerate.tracking, "_available_trackers", [LoggerType.WANDB])
    run = run_with("wandb", tmp_path / "mine")
    assert started["project"] == "sslzoo" and started["name"] == "mine" and started["config"]["temperature"] == str(
        run.recipe.hyperparameters["temperature"]
    )
    assert logged == [(line.pop("step"), line) for line in run.metrics()] and finished
