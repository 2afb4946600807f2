"""The run folder before and after training: whose it is, what a resumed run may change, what is tidied up."""

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
# What a resumed run may change: how it is watched, where the same images lie, and how long it goes on. Names follow from these.
_FREE = {"epochs", "dataset", "tracker", "log_every", "checkpoint_every", "knn_every", "broken_share", "name"}


def recipe_for(run: Run, recipe: Recipe, resume: bool) -> Recipe | None:
    """The recipe to train by in this folder, None where the run is finished. Raises `InputError` for a folder that is not to be touched.

    A folder whose run never came to a checkpoint is started over.
    """
    if not (run.folder / RECIPE).exists():
        for name in (WEIGHTS, RESULTS, CONFIG, CHECKPOINTS):
            if (run.folder / name).exists():
                raise InputError(f"{run.folder} holds {name} and no {RECIPE}, so it is no run of sslzoo's: take another --output")
        return recipe
    finished = bool(run.results()["training"])
    if not finished and not checkpoint_folders(run.folder / CHECKPOINTS):
        return recipe
    if not resume:
        raise InputError(f"{run.folder} holds a run already: --resume goes on with it, --output takes another folder")
    changes = changed(run.recipe, recipe)
    fixed = [key for key in changes if finished or not (key in _FREE or key.startswith("reference."))]
    if fixed:
        told = "; ".join(f"{key}: {before} -> {now}" for key, (before, now) in changes.items() if key in fixed[:5])
        why = "is finished" if finished else "goes on as it began"
        raise InputError(f"the recipe is not the one of {run.folder}, which {why} ({told}): undo that, or take another --output")
    return None if finished else recipe


def changed(before: Recipe, now: Recipe) -> dict[str, tuple[object, object]]:
    """The keys in which two recipes differ, with both values."""
    old, new = before.flat(), now.flat()
    return {key: (old.get(key), new.get(key)) for key in sorted({*old, *new}) if old.get(key) != new.get(key)}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the folder for this run, in all its processes. Raises `InputError` where another run has it, or nothing can be written."""
    lock = FileLock(folder / _LOCK, timeout=0)
    new = not folder.exists()
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
            if new and not any(folder.iterdir()):
                folder.rmdir()


def tidy(run: Run) -> None:
    """Removes what a finished run needs no longer; a run that was killed in its last moment has left it."""
    shutil.rmtree(run.folder / CHECKPOINTS, ignore_errors=True)
