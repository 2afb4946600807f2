"""The command line: each command is one call into the package, and errors become one line and an exit code."""

import argparse
import json
import logging
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from sslzoo.cli_catalogue import compare_runs, explain_recipe, list_encoders, list_methods, list_recipes
from sslzoo.cli_parser import make_parser
from sslzoo.errors import InputError, PublishError, StoppedError, TrainingError, first_line, printable

if TYPE_CHECKING:
    from sslzoo.stopping import TimeLimit

_MOST_LINES = 20  # of pairs that `similar` prints


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit code.

    0; 1 if the work failed; 2 for unusable input; 75 if its time was up, and the same command continues; 128 + signal if one stopped it.
    """
    options = make_parser().parse_args(arguments)
    if not _is_main_process():
        logging.getLogger("sslzoo").setLevel(logging.ERROR)  # the main process warns for all
    try:
        code = _COMMANDS[options.command](options) or 0
        _disconnect()
        return code
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (TrainingError, PublishError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except StoppedError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"error: {first_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


# Each command imports what it needs, so that none waits for the libraries of another.


def _train(options: argparse.Namespace) -> int:
    began = time.monotonic()  # importing takes a part of the time
    from sslzoo.recipe import matching_recipes

    limit = _time_limit(options, began)
    _hide_progress_bars()
    names = [name for source in options.recipe for name in matching_recipes(source)]
    if len(names) < 2:
        # A command with a time limit, like one with several recipes, is there to be repeated.
        _train_one(options, names[0] if names else None, options.resume or limit is not None, limit)
        return 0
    if options.output:
        raise InputError(f"--output is the folder of one run, not of {len(names)}: each has its own in runs/")
    return _train_several(options, names, limit)


def _train_several(options: argparse.Namespace, names: list[str], limit: "TimeLimit | None") -> int:
    """One after the other; what is finished is kept, what was interrupted goes on, and one that fails does not stop the others."""
    from sslzoo.hub import comparison_table

    folders, failed = [], 0
    for number, name in enumerate(names, 1):
        if _is_main_process():
            print(f"recipe {number} of {len(names)}: {name}")
        try:
            folders.append(_train_one(options, name, True, limit))
        except (InputError, TrainingError) as error:
            print(f"error: {name}: {error}", file=sys.stderr)
            failed += 1
    if folders and _is_main_process():
        print(comparison_table(folders))
    return int(failed > 0)


def _train_one(options: argparse.Namespace, source: str | None, resume: bool, limit: "TimeLimit | None") -> Path:
    from sslzoo.recipe import parse_changes, read_recipe, read_values
    from sslzoo.run import RECIPE, Run
    from sslzoo.training import train

    if source is None:
        if not (options.resume and options.output):
            raise InputError("name a recipe of `sslzoo list`, or a run folder with --resume --output")
        source = str(Run(options.output).recipe_file)
    earlier = options.output / RECIPE if resume and options.output else None
    recipe = read_recipe(source, parse_changes(options.set), read_values(earlier) if earlier and earlier.is_file() else None)
    run = train(recipe, options.output or Path("runs") / recipe.name, resume=resume, cpu=options.cpu, limit=limit)
    if _is_main_process():
        print(run.folder)
    if options.evaluate:
        from sslzoo.inference import evaluate

        _print_numbers(evaluate(str(run.folder), cpu=options.cpu, limit=limit))
    return run.folder


def _evaluate(options: argparse.Namespace) -> None:
    began = time.monotonic()
    from sslzoo.inference import evaluate

    limit = _time_limit(options, began)
    _hide_progress_bars()
    numbers = evaluate(
        options.model, options.protocol, on=options.on, train_split=options.train_split, test_split=options.test_split,
        image_column=options.image_column, label_column=options.label_column, cpu=options.cpu, limit=limit,
    )  # fmt: skip
    _print_numbers(numbers, as_json=options.json)


def _print_numbers(numbers: list[dict], as_json: bool = False) -> None:
    for number in numbers if _is_main_process() else []:
        arguments = ", ".join(f"{key} {value}" for key, value in number["arguments"].items())
        line = f"{number['metric']} ({arguments}) on {number['dataset']} {number['split']}: {100 * number['value']:.2f} %"
        print(json.dumps(number) if as_json else line)


def _time_limit(options: argparse.Namespace, began: float) -> "TimeLimit | None":
    from sslzoo.stopping import TimeLimit

    return None if options.minutes is None else TimeLimit(60 * options.minutes, began)


def _reproduce(options: argparse.Namespace) -> int:
    from sslzoo.reproduce import DIFFERENT, reproduce

    _hide_progress_bars()
    findings, main = reproduce(options.model, options.on, cpu=options.cpu), _is_main_process()
    for finding in findings if main else []:
        line = f"{finding.verdict:18} {finding.what}: {_short(finding.claimed)} -> {_short(finding.found)}"
        print(json.dumps(finding._asdict()) if options.json else line)
    counts = Counter(finding.verdict for finding in findings)
    if main and not options.json:
        print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    return int(counts[DIFFERENT] > 0)


def _short(value: object) -> str:
    return str(value) if len(str(value)) <= 24 else f"{str(value)[:12]}..."


def _import(options: argparse.Namespace) -> None:
    from sslzoo.hub import import_weights

    _hide_progress_bars()
    print(import_weights(options.source, options.output, branch=options.branch, heads=options.heads, report=print))


def _export(options: argparse.Namespace) -> None:
    from sslzoo.export import export_onnx

    _hide_progress_bars()
    print(export_onnx(options.model, options.output))


def _card(options: argparse.Namespace) -> None:
    from sslzoo.hub import write_card

    _hide_progress_bars()
    print(write_card(options.folder, with_images=options.with_images or None, seeds=options.seeds))


def _publish(options: argparse.Namespace) -> int:
    from sslzoo.hub import publish, publish_all

    _hide_progress_bars()
    how = {"private": options.private, "dry_run": options.dry_run, "with_images": options.with_images}
    if not options.all:
        print(publish(options.folder, options.to, **how))
        return 0
    outcomes = publish_all(options.folder, options.to, **how)
    for name, outcome in outcomes.items():
        print(f"{name}: {outcome or 'not finished, left out'}")
    return int(any(outcome is not None and outcome.startswith("error: ") for outcome in outcomes.values()))


def _embed(options: argparse.Namespace) -> None:
    from sslzoo.inference import embed

    _hide_progress_bars()
    count = embed(
        options.model, options.data, options.output, split=options.split, image_column=options.image_column,
        label_column=options.label_column, patches=options.patches, cpu=options.cpu,
    )  # fmt: skip
    print(f"{options.output}: {count} rows")


def _similar(options: argparse.Namespace) -> None:
    from sslzoo.similar import PAIRS, SHEET, similar

    _hide_progress_bars()
    pairs, about = similar(
        options.model, options.data, options.output, image=options.image, k=options.k, threshold=options.threshold, split=options.split,
        image_column=options.image_column, label_column=options.label_column, cpu=options.cpu,
    )  # fmt: skip
    if options.json:
        for pair in pairs:
            print(json.dumps(pair._asdict()))
        return
    for pair in pairs[:_MOST_LINES]:
        print(f"{pair.cosine:.4f}  {printable(pair.image)}  {printable(pair.similar)}")
    print(about)
    print(f"{options.output / PAIRS} has all pairs, {options.output / SHEET} shows them")


def _is_main_process() -> bool:
    """From the launcher's environment, as the processes may not be connected yet."""
    return int(os.environ.get("RANK", 0)) == 0


def _disconnect() -> None:
    """Disconnects the processes of a launch: otherwise their communication threads occasionally abort a process at exit."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_initialized():
        distributed.destroy_process_group()


def _hide_progress_bars() -> None:
    """Hides the progress bars of transformers and datasets, which would disturb ours."""
    import datasets
    import transformers

    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()


_COMMANDS = {
    "list": list_recipes, "methods": list_methods, "encoders": list_encoders, "explain": explain_recipe, "compare": compare_runs,
    "train": _train, "evaluate": _evaluate, "reproduce": _reproduce, "import": _import, "card": _card,
    "publish": _publish, "export": _export, "embed": _embed, "similar": _similar,
}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
