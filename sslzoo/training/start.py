"""What `sslzoo train` calls: from a recipe and a folder to a finished run."""

import dataclasses
import importlib.util
import os
from pathlib import Path

import torch

from sslzoo.accelerator import make_accelerator, on_cpu
from sslzoo.data import EMBEDDED
from sslzoo.errors import InputError
from sslzoo.processes import check_alike, main_decides, others_may_end
from sslzoo.recipe import Recipe, rehearse
from sslzoo.run import Run

from .folder import locked, recipe_for, tidy
from .loop import Training


def train(recipe: Recipe, folder: str | Path, *, resume: bool = False, cpu: bool = False) -> Run:
    """Trains the recipe and leaves a run folder, in every process that Accelerate started; returns the run.

    resume: go on from the newest checkpoint in `folder` that is whole, from the start where there is none. On a CPU the weights are in
        the end those of a run that was never stopped, bit for bit.
    cpu: use the CPU even where there is an accelerator.
    Raises `InputError` for what cannot be used, `TrainingError` when the loss is no longer finite or another process has ended, and
    `StoppedError` when Ctrl-C or SIGTERM ended it; checkpoints stay.
    """
    run = Run(folder)
    place = Path(recipe.dataset).expanduser()
    if recipe.dataset != EMBEDDED and place.exists():
        # Wherever the run is looked at from, it is the same folder, and no Hub id.
        recipe = dataclasses.replace(recipe, dataset=str(place.absolute()))
    if recipe.tracker and importlib.util.find_spec(recipe.tracker) is None:
        raise InputError(f"the tracker '{recipe.tracker}' is not installed: pip install 'sslzoo[{recipe.tracker}]'")
    processes = int(os.environ.get("WORLD_SIZE", 1))
    device = torch.device("cpu") if on_cpu(cpu) else torch.accelerator.current_accelerator()
    if recipe.batch_size % (processes * recipe.accumulate) == 0:
        images = recipe.batch_size // processes // recipe.accumulate
        synchronised = device.type == "cuda" and processes > 1  # batch norms, which then see the images of all
        rehearse(recipe, max(2, images) if synchronised else images, device)
    accelerator = make_accelerator(recipe.precision, cpu, tracker=recipe.tracker, folder=run.folder)
    with others_may_end():
        check_alike("the recipe", recipe.flat())
        with locked(run.folder):
            recipe = main_decides(lambda: recipe_for(run, recipe, resume))
            if recipe is None:
                main_decides(lambda: tidy(run))
            else:
                Training(recipe, run, accelerator).run_to_end()
    return run
