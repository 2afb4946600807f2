"""Saving a run, resuming it, and stopping it at a signal."""

import logging
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, NoReturn

import torch

from sslzoo.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from sslzoo.encoders import misfits
from sslzoo.errors import InputError, first_line
from sslzoo.processes import all_or_none, broadcast_from_main, check_equal
from sslzoo.recipe import write_recipe
from sslzoo.run import CHECKPOINTS, RECIPE
from sslzoo.stopping import TIME_IS_UP, stopped_by

from .run_folder import recipe_changes
from .setup import load_starting_weights

if TYPE_CHECKING:
    from .loop import Training

_log = logging.getLogger(__name__)


def save(training: "Training") -> None:
    """Writes a checkpoint; called by all processes. A full disk costs a warning, not the run."""
    limit = training.limit
    with limit.measuring_saving() if limit is not None else nullcontext():
        training.evaluation.broadcast_buffers()
        sums = training.logs.mean_sums()
        if broadcast_from_main(lambda: _write(training, sums)):
            training.saved_step = training.step


def save_and_stop(training: "Training", reason: int) -> NoReturn:
    """Saves and ends the run. reason: as `StopRequest.agreed_reason` gives it. Raises `StoppedError`."""
    if training.saved_step != training.step:
        save(training)
    where = f"at step {training.step:,}"
    if training.saved_step != training.step:
        newest = f"step {training.saved_step:,} is the last that is saved" if training.saved_step else "nothing is saved"
        raise stopped_by(reason, f"{where}, which could not be saved: {newest}")
    if reason != TIME_IS_UP:
        raise stopped_by(reason, f"{where}, saved: sslzoo train --resume --output {training.run.folder} continues the run")
    limit, trained = training.limit, training.step - training.first_step
    start = f"{limit.started:.0f} of {limit.seconds:.0f} s passed before the first"
    steps = f"of {training.steps:,}, saved, {trained:,} steps in this call"
    raise stopped_by(reason, f"{where} {steps}, and {start}: the same command continues the run")


def restore(training: "Training") -> None:
    """Restores the newest intact checkpoint, or else the weights to start from, and writes the recipe that is trained from now on.

    Raises `InputError` if the training images have changed, or the checkpoint is not one that this version of the code would write.
    """
    folder = training.run.folder
    with all_or_none():
        checkpoint = load_checkpoint(folder / CHECKPOINTS)
        if checkpoint is not None and (difference := _difference(training, checkpoint)):
            raise InputError(
                f"the checkpoint in {folder} is of another version of sslzoo or of the method ({difference}): --resume with the version "
                "that wrote it, or train again with another --output"
            )
    check_equal(f"the newest checkpoint in {folder}", checkpoint and checkpoint.state["step"])
    with all_or_none():
        if checkpoint is not None:
            _load(training, checkpoint)
        else:
            load_starting_weights(training.method, training.recipe)
    broadcast_from_main(lambda: _restore_files(training, checkpoint))


def _write(training: "Training", sums: dict[str, float]) -> bool:
    training.seconds["all"] = time.perf_counter() - training.started
    try:
        save_checkpoint(training.run.folder / CHECKPOINTS, training.step, _checkpoint(training, sums))
    except OSError as error:
        _log.warning("no checkpoint at step %d: %s", training.step, first_line(error))
        return False
    return True


def _checkpoint(training: "Training", sums: dict[str, float]) -> Checkpoint:
    scaler = training.accelerator.scaler
    optimizer = {"optimizer": training.optimizer.state_dict()} | ({"scaler": scaler.state_dict()} if scaler is not None else {})
    state = {
        "step": training.step, "best": training.evaluation.best, "measured_step": training.evaluation.measured_step,
        "seconds": training.seconds, "metrics_size": training.run.synced_metrics_size(), "sums": sums,
        "summed": training.logs.summed_steps, "fingerprint": training.images.fingerprint, "resumed": training.resumed,
    }  # fmt: skip
    return Checkpoint(training.method.state_dict(), optimizer, state)


def _difference(training: "Training", saved: Checkpoint) -> str | None:
    """What a checkpoint lacks or has otherwise than one that is written now; None where it can be resumed from."""
    own, missing = _checkpoint(training, {}), "it has no '{}'".format
    if wrong := misfits(own.tensors, saved.tensors):
        return f"{len(wrong)} tensors differ, the first is '{wrong[0]}'"
    if lacks := [*sorted(own.state.keys() - saved.state.keys()), *sorted(own.optimizer.keys() - saved.optimizer.keys())]:
        return missing(lacks[0])
    groups, saved_groups = (part.optimizer["optimizer"]["param_groups"] for part in (own, saved))
    sizes, saved_sizes = ([len(group["params"]) for group in each] for each in (groups, saved_groups))
    if sizes != saved_sizes:
        return f"its groups have {_listed(saved_sizes)} parameters, not {_listed(sizes)}"
    # The settings that torch's optimisers lack in older files, they fill in themselves.
    if lacks := sorted(groups[0].keys() - training.optimizer.defaults.keys() - saved_groups[0].keys()):
        return missing(lacks[0])
    parameters = [parameter for group in training.optimizer.param_groups for parameter in group["params"]]
    for index, values in saved.optimizer["optimizer"]["state"].items():
        if any(value.ndim and value.shape != parameters[index].shape for value in values.values()):
            return "its groups have other parameters"
    return None


def _listed(sizes: list[int]) -> str:
    return ", ".join(map(str, sizes[:-1])) + " and " * (len(sizes) > 1) + str(sizes[-1])


def _load(training: "Training", checkpoint: Checkpoint) -> None:
    state = checkpoint.state
    if state["fingerprint"] != training.images.fingerprint:
        raise InputError(f"{training.recipe.dataset} does not hold the images that {training.run.folder} was trained on before")
    if state["step"] > training.steps:
        raise InputError(f"epochs {training.recipe.epochs} are fewer than are trained already: {state['step']} of {training.steps} steps")
    training.method.load_state_dict(checkpoint.tensors)
    training.optimizer.load_state_dict(checkpoint.optimizer["optimizer"])
    if training.accelerator.scaler is not None:
        training.accelerator.scaler.load_state_dict(checkpoint.optimizer["scaler"])
    training.step = training.saved_step = state["step"]
    training.seconds, training.resumed = state["seconds"], state["resumed"]
    training.evaluation.best, training.evaluation.measured_step = state["best"], state["measured_step"]
    logs, device = training.logs, training.accelerator.device
    logs.sums = {name: torch.tensor(value, device=device) for name, value in state["sums"].items()}
    logs.summed_steps = state["summed"]


def _restore_files(training: "Training", checkpoint: Checkpoint | None) -> None:
    """Brings metrics.jsonl and recipe.yaml back to the step at which the run continues."""
    run, recipe = training.run, training.recipe
    if checkpoint is not None:
        changes = recipe_changes(run.recipe.public(), recipe.public())
        if changes:
            changed = ", ".join(f"{key} {before} -> {now}" for key, (before, now) in changes.items())
            training.resumed = [*training.resumed, f"step {training.step}: {changed}"]
    missing = run.cut_metrics(checkpoint.state["metrics_size"] if checkpoint else 0)
    if missing:
        _log.warning("metrics.jsonl lacks %d bytes of what was logged before step %d: the curves have a gap", missing, training.step)
    write_recipe(recipe, run.folder / RECIPE)
