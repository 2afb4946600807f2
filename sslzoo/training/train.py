"""The entry point of `sslzoo train`: from a recipe to a finished run folder."""

import dataclasses
import os
from pathlib import Path

import torch
from accelerate.tracking import get_available_trackers

from sslzoo.accelerator import make_accelerator, on_cpu
from sslzoo.data import EMBEDDED
from sslzoo.errors import InputError
from sslzoo.processes import broadcast_from_main, check_equal, explain_lost_process
from sslzoo.recipe import Recipe, rehearse
from sslzoo.run import Run
from sslzoo.stopping import TimeLimit

from .loop import Training
from .run_folder import locked, recipe_to_train, remove_checkpoints


def train(recipe: Recipe, folder: str | Path, *, resume: bool = False, cpu: bool = False, limit: TimeLimit | None = None) -> Run:
    """Trains the recipe into a run folder and returns the run. Called in every process that Accelerate started.

    resume: continue from the newest intact checkpoint in `folder`, or start from scratch if there is none. On a CPU the final weights
        are bit for bit those of an uninterrupted run.
    cpu: use the CPU even if there is an accelerator.
    limit: when to save and stop; at least one step is trained.
    Raises `InputError` for unusable input, `TrainingError` when the loss is no longer finite or another process has ended, and
    `StoppedError` when Ctrl-C, SIGTERM or the limit ended the run. Checkpoints remain in all cases.
    """
    run = Run(folder)
    path = Path(recipe.dataset).expanduser()
    if recipe.dataset != EMBEDDED and path.exists():
        # An absolute path: the same folder whatever the working directory is, and never mistaken for a Hub id.
        recipe = dataclasses.replace(recipe, dataset=str(path.absolute()))
    if recipe.tracker and recipe.tracker not in map(str, get_available_trackers()):
        raise InputError(f"the tracker '{recipe.tracker}' is not installed: pip install {recipe.tracker}")
    processes = int(os.environ.get("WORLD_SIZE", 1))
    device = torch.device("cpu") if on_cpu(cpu) else torch.accelerator.current_accelerator()
    if recipe.batch_size % (processes * recipe.accumulate) == 0:
        images = recipe.batch_size // processes // recipe.accumulate
        sync_batch_norm = device.type == "cuda" and processes > 1  # which sees the images of all processes
        rehearse(recipe, max(2, images) if sync_batch_norm else images, device)
    accelerator = make_accelerator(recipe.precision, cpu, tracker=recipe.tracker, folder=run.folder)
    with explain_lost_process():
        check_equal("the recipe", recipe.flat())
        with locked(run.folder):
            to_train = broadcast_from_main(lambda: recipe_to_train(run, recipe, resume))
            if to_train is None:
                broadcast_from_main(lambda: remove_checkpoints(run))
            else:
                Training(to_train, run, accelerator, limit).run_to_end()
    return run
