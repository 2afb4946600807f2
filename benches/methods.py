"""Several recipes at one budget, over several seeds, as a Markdown table: top-1 untrained and trained, mean and range.

By kNN (k = 20) and by the fast linear protocol, which finds what a method for fine-tuning has learned where kNN does not.

    python benches/methods.py --set epochs=20 batch_size=128 --seeds 0 1 2
    python benches/methods.py 'small/*' --set dataset=path/to/parquet epochs=5 --workers 12 --minutes 9

Without a recipe: every method that needs no teacher, with a ResNet-18 or a small ViT, on CIFAR-10. Runs that are finished are read, and
interrupted ones go on, when the command is repeated; the table is that of the finished ones.
"""

import argparse
import os
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import torch

from sslzoo.accelerator import make_accelerator
from sslzoo.errors import InputError, StoppedError, TrainingError
from sslzoo.inference import evaluate
from sslzoo.recipe import matching_recipes, parse_changes, read_recipe, write_recipe
from sslzoo.run import RECIPE, RESULTS, Run
from sslzoo.stopping import TRY_AGAIN, TimeLimit
from sslzoo.training import train
from sslzoo.training.setup import make_training_method

_RESNETS = (
    "barlowtwins", "byol", "dcl", "dclw", "dino", "fastsiam", "lejepa", "mocov2", "mocov3", "nnclr", "simclr", "simsiam", "smog", "swav",
    "tico", "vicreg", "vicregl", "visreg",
)  # fmt: skip
_RECIPES = [*(f"cifar10/{method}" for method in _RESNETS), "small/*"]
_KNN = "knn_top1 k=20 T=0.1"
_LINEAR = "linear-features-v1"


class Job(NamedTuple):
    """A run to train. changes: as after --set. end: by the monotonic clock, which the processes of a machine share; None: no end."""

    recipe: str
    changes: list[str]
    seed: int
    folder: Path
    cpu: bool
    end: float | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=_RECIPES, metavar="RECIPE", help="a recipe, or a pattern of shipped ones")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="changes to all of them")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--workers", type=int, default=1, help="runs at a time, each in a process of its own")
    parser.add_argument("--minutes", type=float, help="save and stop then")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("runs/methods"))
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes if options.minutes is not None else None
    names = [name for pattern in options.recipes for name in matching_recipes(pattern)]
    jobs = [
        Job(name, options.set, seed, options.output / f"{name.replace('/', '-')}-{seed}", options.cpu, end)
        for seed in options.seeds for name in names
    ]  # fmt: skip
    if options.workers == 1:
        problems = list(map(run_job, jobs))
    else:
        threads = max(1, (os.cpu_count() or 1) // options.workers)
        with ProcessPoolExecutor(options.workers, get_context("spawn"), start_worker, (threads,)) as pool:
            problems = list(pool.map(run_job, jobs))
    for job, problem in zip(jobs, problems, strict=True):
        if problem is not None:
            print(f"{job.recipe}, seed {job.seed}: {problem}", file=sys.stderr)
    finished = [(job.recipe, Run(job.folder)) for job, problem in zip(jobs, problems, strict=True) if problem is None]
    print(table({name: [run for recipe, run in finished if recipe == name] for name in names}))


def start_worker(threads: int) -> None:
    """Ends with the process that started it, even a killed one: what a left-over worker writes would mix with the next one's runs."""
    torch.set_num_threads(threads)
    Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    parent_process().join()
    os._exit(1)


def run_job(job: Job) -> str | None:
    """Trains to the end and measures, or says in a line why not."""
    limit = None if job.end is None else TimeLimit(job.end - time.monotonic())
    try:
        if limit is not None and not limit.allows(0) and not Run(job.folder).results()["training"]:
            return "not begun before the time was up"
        train(read_recipe(job.recipe, {**parse_changes(job.changes), "seed": job.seed}), job.folder, resume=True, cpu=job.cpu, limit=limit)
        trained = Run(job.folder)
        if not (untrained(trained).folder / RESULTS).exists():
            save_untrained(trained, job.cpu)
        for run in (trained, untrained(trained)):
            if linear_top1(run) is None:
                evaluate(str(run.folder), [_LINEAR], cpu=job.cpu, limit=limit)
    except (InputError, TrainingError) as error:
        return str(error)
    except StoppedError as error:
        if error.exit_code != TRY_AGAIN:
            raise KeyboardInterrupt from None
        return str(error)
    return None


def untrained(run: Run) -> Run:
    """What the run began with, as a run in its folder."""
    return Run(run.folder / "untrained")


def save_untrained(run: Run, cpu: bool) -> None:
    """Makes again what the run began with."""
    recipe, folder = run.recipe, untrained(run).folder
    make_training_method(recipe, make_accelerator("fp32", cpu)).save_pretrained(folder)
    recipe.preprocessing.write(folder)
    write_recipe(recipe, folder / RECIPE)
    untrained(run).write_results({"training": {}, "numbers": []})


def linear_top1(run: Run) -> float | None:
    """In percent; None where it has not been measured."""
    numbers = (number for number in run.results()["numbers"] if (number["protocol"], number["metric"]) == (_LINEAR, "linear_top1"))
    return next((100 * number["value"] for number in numbers), None)


def table(runs: dict[str, list[Run]]) -> str:
    """A row for each recipe with runs, best by kNN first."""
    rows = []
    for name, found in runs.items():
        if found:
            curves = [[100 * line[_KNN] for line in run.metrics() if _KNN in line] for run in found]
            first, training = found[0].recipe, found[0].results()["training"]
            minutes = statistics.mean(run.results()["training"]["seconds"] for run in found) / 60
            measured = (
                [curve[0] for curve in curves], [curve[-1] for curve in curves],
                [linear_top1(untrained(run)) for run in found], [linear_top1(run) for run in found],
            )  # fmt: skip
            cells = [name, first.encoder_name, f"{training['images']:,} x {first.epochs}", f"{minutes:.1f}", *map(summary, measured)]
            rows.append((statistics.mean(measured[1]), f"| {' | '.join(cells)} | {len(found)} |"))
    columns = ("recipe", "encoder", "images x epochs", "minutes", "kNN untrained", "trained", "linear untrained", "trained", "seeds")
    return "\n".join([f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", *(row for _, row in sorted(rows, reverse=True))])


def summary(values: list[float]) -> str:
    """ "61.2 (60.1 to 62.0)", or the value alone where there is one."""
    spread = f" ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


if __name__ == "__main__":
    main()
