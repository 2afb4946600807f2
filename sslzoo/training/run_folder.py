"""Training in a run folder: which recipe may be trained or resumed in it, the lock, and removing the checkpoints."""

import dataclasses
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from sslzoo.checkpoint import checkpoint_folders
from sslzoo.errors import InputError, first_line
from sslzoo.processes import all_or_none, rank
from sslzoo.recipe import Recipe
from sslzoo.run import CHECKPOINTS, CONFIG, RECIPE, RESULTS, WEIGHTS, Run

_LOCK = ".lock"
# Keys that a resumed run may change: logging, compiling, memory, the location of the same images and of the same teacher, and the length.
# The name follows from these.
_CHANGEABLE = {
    "epochs", "dataset", "teacher", "tracker", "log_every", "checkpoint_every", "knn_every", "broken_share", "name", "compile",
    "gradient_checkpointing",
}  # fmt: skip


def recipe_to_train(run: Run, recipe: Recipe, resume: bool) -> Recipe | None:
    """The recipe to train in this folder, None if its run is finished. Raises `InputError` if the folder must not be touched.

    A run without any checkpoint is started from scratch.
    """
    if not (run.folder / RECIPE).exists():
        for name in (WEIGHTS, RESULTS, CONFIG, CHECKPOINTS):
            if (run.folder / name).exists():
                raise InputError(f"{run.folder} holds {name} but no {RECIPE}, so it is no run folder of sslzoo: take another --output")
        return recipe
    finished = bool(run.results()["training"])
    if not finished and not checkpoint_folders(run.folder / CHECKPOINTS):
        return recipe
    if not resume:
        raise InputError(f"{run.folder} already holds a run: --resume continues it, --output takes another folder")
    if recipe.mean is None and run.recipe.channels == recipe.channels:
        recipe = dataclasses.replace(recipe, mean=run.recipe.mean, std=run.recipe.std)  # as measured when the run began
    changes = recipe_changes(run.recipe, recipe)
    refused = [key for key in changes if finished or not (key in _CHANGEABLE or key.startswith("reference."))]
    if refused:
        shown = "; ".join(f"{key}: {before} -> {now}" for key, (before, now) in changes.items() if key in refused[:5])
        why = "is finished" if finished else "can only be resumed with its own recipe"
        raise InputError(f"the recipe differs from that of {run.folder}, which {why} ({shown}): undo that, or take another --output")
    return None if finished else recipe


def recipe_changes(before: Recipe, now: Recipe) -> dict[str, tuple[object, object]]:
    """The keys in which two recipes differ, with both values."""
    old, new = before.flat(), now.flat()
    return {key: (old.get(key), new.get(key)) for key in sorted({*old, *new}) if old.get(key) != new.get(key)}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Locks the folder for all processes of this run. Raises `InputError` if another run holds the lock or the folder is not writable."""
    lock = FileLock(folder / _LOCK, timeout=0)
    is_new = not folder.exists()
    with all_or_none():
        if rank() == 0:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                lock.acquire()
            except Timeout as error:
                raise InputError(f"another process is training in {folder}") from error
            except (OSError, NotImplementedError) as error:
                raise InputError(f"cannot write into {folder}: {first_line(error)}; take another --output") from error
    try:
        yield
    finally:
        if lock.is_locked:
            (folder / _LOCK).unlink(missing_ok=True)
            lock.release()
            if is_new and not any(folder.iterdir()):
                folder.rmdir()


def remove_checkpoints(run: Run) -> None:
    """Removes the checkpoints of a finished run, also those of one that was killed before it could do so itself."""
    shutil.rmtree(run.folder / CHECKPOINTS, ignore_errors=True)
