"""Complete runs in two processes: both take every branch together, however many steps there are and whichever process fails."""

import json
import os
import re
import socket
import time
from pathlib import Path

import pytest
import torch
from small_digits import small_digits
from test_training import Killed, train_until, weights, without_rehearsal
from two_processes import start_two_processes

from sslzoo.errors import InputError, StoppedError, TrainingError
from sslzoo.recipe import read_recipe
from sslzoo.run import Run
from sslzoo.stopping import TimeLimit
from sslzoo.training import images, logs, loop, train

pytestmark = pytest.mark.slow
# DINO on a ViT: without batch norm, only gathers, averaged gradients and the order of the images could differ from one process.
# 5 steps.
BASE = {
    "dataset": small_digits(), "encoder": "vit-xs4", "optimizer": "sgd", "lr": 0.1, "frozen_epochs": 0, "head_norm": False,
    "batch_size": 16, "epochs": 1, "knn_every": 0, "warmup_epochs": 0, "log_every": 2, "checkpoint_every": 5,
}  # fmt: skip


def recipe(**changes):
    return read_recipe("digits/dino", {**BASE, **changes})


def run(folder: Path, **changes) -> str:
    train(recipe(**changes), folder, resume=True, cpu=True)
    return "done"


def ends(folder: Path, rank: int, patch: pytest.MonkeyPatch):
    """All scenarios, in the order in which both processes run them; each returns its outcome in this process."""
    yield "multiple", lambda: run(folder / "multiple", test_split=None)
    yield "one step", lambda: run(folder / "one", batch_size=84, checkpoint_every=1, log_every=1)
    yield "log and checkpoint", lambda: run(folder / "both", log_every=5)

    yield "killed", lambda: train_until(3, recipe(checkpoint_every=3), folder / "resumed", patch)
    yield "resumed", lambda: run(folder / "resumed", checkpoint_every=3)
    yield "last step saved", lambda: killed_in_finish(folder / "last", patch)
    yield "resumed at the last step", lambda: run(folder / "last")

    yield "other recipes", lambda: run(folder / "differ", lr=0.1 * (1 + rank))
    yield "lock refused", lambda: refused_lock(folder / "locked", rank)
    yield "missing on one machine", lambda: missing_on_one(folder / "missing", rank, patch)
    yield "disk full at the end", lambda: full_disk(folder / "full", rank, patch)
    yield "not finite", lambda: not_finite(folder / "nan", rank, patch)
    yield "signal to one", lambda: signalled(folder / "signal", rank, patch)
    yield "goes on", lambda: run(folder / "signal")
    # Only one process's clock says so.
    limit = TimeLimit(0.0 if rank == 1 else 10**9)
    yield "time is up", lambda: train(recipe(), folder / "limit", resume=True, cpu=True, limit=limit)
    yield "the next call", lambda: run(folder / "limit")


def killed_in_finish(folder, patch):
    with patch.context() as inside:
        inside.setattr(loop, "finish", lambda training: raises(Killed()))
        train(recipe(), folder, resume=True, cpu=True)


def refused_lock(folder, rank):
    from filelock import FileLock

    folder.mkdir(exist_ok=True)
    if rank == 0:
        with FileLock(folder / ".lock"):
            return run(folder)
    return run(folder)


def missing_on_one(folder, rank, patch):
    with patch.context() as inside:
        if rank == 1:
            inside.setattr(images, "load_images", lambda *arguments, **options: raises(InputError("no such folder here")))
        return run(folder)


def full_disk(folder, rank, patch):
    with patch.context() as inside:
        inside.setattr(Run, "write_results", lambda *arguments: raises(OSError(28, "No space left on device")))
        return run(folder)


def not_finite(folder, rank, patch):
    """Only one process's features are not finite: they come from its own images."""
    with patch.context() as inside:
        if rank == 1:
            original = logs.features
            inside.setattr(logs, "features", lambda encoder, pixels: original(encoder, pixels) * torch.nan)
        return run(folder)


def signalled(folder, rank, patch):
    import signal

    original = loop.Training._train_step

    def receiving(self, *arguments):
        if self.step == 1 and rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *arguments)

    with patch.context() as inside:
        inside.setattr(loop.Training, "_train_step", receiving)
        return run(folder)


def raises(error):
    raise error


def _process(rank, folder, port, images):
    torch.set_num_threads(1)
    BASE["dataset"] = images  # of both processes
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    seen = {}
    with pytest.MonkeyPatch.context() as patch:
        without_rehearsal(patch)
        for name, scenario in ends(Path(folder), rank, patch):
            try:
                seen[name] = scenario()
            except (InputError, TrainingError, StoppedError, OSError, Killed, pytest.fail.Exception) as error:
                seen[name] = f"{type(error).__name__}: {error}"
            Path(folder, f"seen-{rank}.json").write_text(json.dumps(seen))


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The folder of all scenarios and the outcomes in each process. A deadlock fails here with the name of the scenario."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    context = start_two_processes(_process, (str(folder), port, BASE["dataset"]), join=False)
    deadline = time.monotonic() + 1200  # only a deadlock takes that long
    while not (joined := context.join(timeout=5)) and time.monotonic() < deadline:
        pass
    seen = [json.loads((folder / f"seen-{rank}.json").read_text()) for rank in range(2)]
    if not joined:
        for process in context.processes:
            process.kill()
        pytest.fail(f"the processes wait for each other after {[list(names)[-1] for names in seen]}")
    return folder, seen


@pytest.mark.parametrize(
    "name", ["multiple", "one step", "log and checkpoint", "resumed", "resumed at the last step", "goes on", "the next call"]
)
def test_a_run_finishes(name, both):
    assert [seen[name] for seen in both[1]] == ["done", "done"]


@pytest.mark.parametrize(
    ("name", "main", "other"),
    [
        ("other recipes", *["InputError: the recipe must be alike .*: .'lr': 0.1. in process 0, .'lr': 0.2. in process 1"] * 2),
        ("lock refused", "InputError: another process is training", "InputError: process 0: another process is training"),
        ("missing on one machine", "InputError: process 1: no such folder here", "InputError: no such folder here"),
        ("disk full at the end", "TrainingError: .*No space left.*step 5 is saved", "TrainingError: process 0: .*No space left"),
        ("not finite", "TrainingError: feature_std is nan before step 2", "TrainingError: feature_std is nan before step 2"),
        ("time is up", *["StoppedError: stopped by the time limit at step 2 of 5, saved, 2 steps"] * 2),
        ("signal to one", "StoppedError: stopped by SIGTERM at step 3, saved", "StoppedError: stopped by SIGTERM at step 3, saved"),
    ],
)
def test_an_error_in_one_process_ends_both_with_a_line(name, main, other, both):
    for seen, expected in zip(both[1], (main, other), strict=True):
        assert re.match(expected, seen[name]), seen[name]


def test_an_interrupted_run_ends_like_an_uninterrupted_one_in_one_process(both, tmp_path):
    """The same weights and log lines: sums from before the interruption count once, not once per process."""
    alone = train(recipe(checkpoint_every=3), tmp_path, cpu=True)
    start = weights_at_start()
    for name in ("resumed", "signal", "limit"):
        found = Run(both[0] / name)
        moved = max(float((value - start[key]).abs().max()) for key, value in weights(alone.folder).items() if key in start)
        apart = max(float((value - weights(found.folder)[key]).abs().max()) for key, value in weights(alone.folder).items())
        assert apart < 1e-4 * moved
        losses = [[(line["step"], line["loss"]) for line in run.metrics() if "loss" in line] for run in (alone, found)]
        assert [step for step, _ in losses[0]] == [step for step, _ in losses[1]] == [2, 4, 5]
        assert [loss for _, loss in losses[1]] == pytest.approx([loss for _, loss in losses[0]], rel=1e-5)


def test_a_run_of_two_processes_can_be_resumed_in_one(both, tmp_path, monkeypatch):
    train_until(3, recipe(checkpoint_every=3), tmp_path, monkeypatch)
    train(recipe(checkpoint_every=3), tmp_path, resume=True, cpu=True)
    one, two = weights(tmp_path), weights(both[0] / "resumed")
    assert max(float((one[key] - two[key]).abs().max()) for key in one) < 1e-4


def weights_at_start():
    torch.manual_seed(0)
    return {name: value for name, value in recipe().make_method().state_dict().items()}


def test_nothing_is_left_behind(both):
    for name in ("multiple", "one", "both", "resumed", "last", "signal"):
        names = {file.name for file in (both[0] / name).iterdir()}
        assert "results.json" in names and not names & {".lock", "checkpoints", ".new"}
