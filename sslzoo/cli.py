"""The command line: each command is one call into the package, and errors become one line and an exit code."""

import argparse
import json
import logging
import sys
from collections import Counter

from sslzoo.cli_catalogue import compare_runs, explain_recipe, list_encoders, list_methods, list_recipes
from sslzoo.cli_console import hide_progress_bars, is_main_process
from sslzoo.cli_jobs import show_jobs
from sslzoo.cli_parser import make_parser
from sslzoo.cli_training import evaluate_model, train_recipes
from sslzoo.errors import InputError, PublishError, StoppedError, TrainingError, first_line, printable

_MOST_LINES = 20  # of pairs that `similar` prints


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit code.

    0; 1 if the work failed; 2 for unusable input; 75 if its time was up, and the same command continues; 128 + signal if one stopped it.
    """
    options = make_parser().parse_args(arguments)
    if not is_main_process():
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


def _reproduce(options: argparse.Namespace) -> int:
    from sslzoo.reproduce import DIFFERENT, reproduce

    hide_progress_bars()
    findings, main = reproduce(options.model, options.on, cpu=options.cpu), is_main_process()
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

    hide_progress_bars()
    print(import_weights(options.source, options.output, branch=options.branch, heads=options.heads, report=print))


def _export(options: argparse.Namespace) -> None:
    from sslzoo.export import export_onnx

    hide_progress_bars()
    print(export_onnx(options.model, options.output))


def _card(options: argparse.Namespace) -> None:
    from sslzoo.hub import write_card

    hide_progress_bars()
    print(write_card(options.folder, with_images=options.with_images or None, seeds=options.seeds))


def _publish(options: argparse.Namespace) -> int:
    from sslzoo.hub import publish, publish_all

    hide_progress_bars()
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

    hide_progress_bars()
    if options.push:
        from sslzoo.hub import check_may_be_published

        check_may_be_published(options.data, options.push, options.of_private_data)
    count = embed(
        options.model, options.data, options.output, split=options.split, image_column=options.image_column,
        label_column=options.label_column, patches=options.patches, cpu=options.cpu,
    )  # fmt: skip
    print(f"{options.output}: {count} rows")
    if options.push:
        from sslzoo.hub import publish_features

        print(publish_features(options.output, options.push, options.model, options.data, options.split, private=options.private))


def _similar(options: argparse.Namespace) -> None:
    from sslzoo.similar import PAIRS, SHEET, similar

    hide_progress_bars()
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


def _disconnect() -> None:
    """Disconnects the processes of a launch: otherwise their communication threads occasionally abort a process at exit."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_initialized():
        distributed.destroy_process_group()


_COMMANDS = {
    "list": list_recipes, "methods": list_methods, "encoders": list_encoders, "explain": explain_recipe, "compare": compare_runs,
    "train": train_recipes, "evaluate": evaluate_model, "jobs": show_jobs, "reproduce": _reproduce, "import": _import, "card": _card,
    "publish": _publish, "export": _export, "embed": _embed, "similar": _similar,
}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
