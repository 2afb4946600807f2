"""`sslzoo train` and `sslzoo evaluate`: here, with checkpoints in a repository of the Hub if that is asked for, or on Hugging Face Jobs."""

import argparse
import json
import os
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from sslzoo.cli_console import hide_progress_bars, is_main_process
from sslzoo.cli_jobs import check_job_options, evaluate_on_jobs, train_on_jobs
from sslzoo.errors import InputError, PublishError, TrainingError

if TYPE_CHECKING:
    from sslzoo.hub import CheckpointRepository
    from sslzoo.recipe import Recipe
    from sslzoo.stopping import TimeLimit


def train_recipes(options: argparse.Namespace) -> int:
    """`sslzoo train`."""
    began = time.monotonic()  # importing takes a part of the time
    check_job_options(options)
    from sslzoo.recipe import matching_recipes

    limit = _time_limit(options, began)
    hide_progress_bars()
    # Whether each was named; if not, a pattern fits it.
    names = {name: name in options.recipe for source in options.recipe for name in matching_recipes(source)}
    if len(names) < 2:
        source = next(iter(names), None)
        if options.on_jobs:
            return train_on_jobs(options, _read_recipe(options, source, False))
        # A command with a time limit or a repository, like one with several recipes, is there to be repeated.
        _train_one(options, source, options.resume or limit is not None or options.checkpoints_to is not None, limit)
        return 0
    for flag, given in (("--output", options.output), ("--checkpoints-to", options.checkpoints_to), ("--on-jobs", options.on_jobs)):
        if given:
            raise InputError(f"{flag} is for one run, not for {len(names)}: train each recipe by itself")
    return _train_several(options, names, limit)


def _train_several(options: argparse.Namespace, names: dict[str, bool], limit: "TimeLimit | None") -> int:
    """One after the other; what is finished is kept, what was interrupted goes on, and one that fails does not stop the others.

    names: of recipes, and whether each was named; those that only a pattern fits are left out if they need a teacher that nobody named.
    """
    from sslzoo.hub import comparison_table
    from sslzoo.recipe import lacks_teacher

    folders, failed = [], 0
    for number, (name, is_named) in enumerate(names.items(), 1):
        if is_main_process():
            print(f"recipe {number} of {len(names)}: {name}")
        try:
            if not is_named and lacks_teacher(_read_recipe(options, name, True)):
                if is_main_process():
                    print("left out: it learns from a trained encoder, which teacher=ID_OR_FOLDER names")
                continue
            folders.append(_train_one(options, name, True, limit))
        except (InputError, TrainingError, PublishError) as error:
            print(f"error: {name}: {error}", file=sys.stderr)
            failed += 1
    if folders and is_main_process():
        print(comparison_table(folders))
    return int(failed > 0)


def _train_one(options: argparse.Namespace, source: str | None, resume: bool, limit: "TimeLimit | None") -> Path:
    from sslzoo.training import train

    recipe = _read_recipe(options, source, resume)
    folder = options.output or Path("runs") / recipe.name
    with _checkpoint_repository(options, folder) as repository:
        run = train(recipe, folder, resume=resume, cpu=options.cpu, limit=limit)
        if is_main_process():
            print(run.folder)
        if options.evaluate:
            from sslzoo.inference import evaluate

            if repository is not None:
                repository.upload()
            _print_numbers(evaluate(str(run.folder), cpu=options.cpu, limit=limit))
    if options.to and is_main_process():
        from sslzoo.hub import publish

        print(publish(run.folder, options.to, private=options.private))
    return run.folder


def _read_recipe(options: argparse.Namespace, source: str | None, resume: bool) -> "Recipe":
    from sslzoo.recipe import parse_changes, read_recipe, read_values
    from sslzoo.run import RECIPE, Run

    if source is None:
        if not (options.resume and options.output):
            raise InputError("name a recipe of `sslzoo list`, or a run folder with --resume --output")
        source = str(Run(options.output).recipe_file)
    earlier = options.output / RECIPE if resume and options.output else None
    return read_recipe(source, parse_changes(options.set), read_values(earlier) if earlier and earlier.is_file() else None)


def _checkpoint_repository(options: argparse.Namespace, folder: Path) -> "AbstractContextManager[CheckpointRepository | None]":
    if options.checkpoints_to is None:
        return nullcontext()
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise InputError("--checkpoints-to is for one process: with several, keep the run folder where all of them see it")
    from huggingface_hub.utils import disable_progress_bars

    from sslzoo.hub import CheckpointRepository

    disable_progress_bars()
    return CheckpointRepository(options.checkpoints_to, folder)


def evaluate_model(options: argparse.Namespace) -> int:
    """`sslzoo evaluate`."""
    began = time.monotonic()
    check_job_options(options)
    if options.on_jobs:
        return evaluate_on_jobs(options)
    from sslzoo.inference import evaluate

    limit = _time_limit(options, began)
    hide_progress_bars()
    numbers = evaluate(
        options.model, options.protocol, on=options.on, train_split=options.train_split, test_split=options.test_split,
        image_column=options.image_column, label_column=options.label_column, cpu=options.cpu, limit=limit,
    )  # fmt: skip
    _print_numbers(numbers, as_json=options.json)
    return 0


def _print_numbers(numbers: list[dict], as_json: bool = False) -> None:
    for number in numbers if is_main_process() else []:
        arguments = ", ".join(f"{key} {value}" for key, value in number["arguments"].items())
        line = f"{number['metric']} ({arguments}) on {number['dataset']} {number['split']}: {100 * number['value']:.2f} %"
        print(json.dumps(number) if as_json else line)


def _time_limit(options: argparse.Namespace, began: float) -> "TimeLimit | None":
    from sslzoo.stopping import TimeLimit

    return None if options.minutes is None else TimeLimit(60 * options.minutes, began)
