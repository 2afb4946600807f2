"""The command line: each command is one call into the package."""

import argparse
import json
import logging
import os
import sys
from collections import Counter
from pathlib import Path

from sslzoo import __version__
from sslzoo.errors import InputError, PublishError, StoppedError, TrainingError, first_line


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0, 1 when the work failed, 2 for input that cannot be used."""
    options = _parser().parse_args(arguments)
    if not _is_main_process():
        logging.getLogger("sslzoo").setLevel(logging.ERROR)  # what all processes would warn of, one does
    try:
        code = options.run(options) or 0
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
        return 128 + error.signal
    except OSError as error:
        print(f"error: {first_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sslzoo", description="The Hugging Face-native zoo of self-supervised vision learning.")
    parser.add_argument("--version", action="version", version=f"sslzoo {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    listing = commands.add_parser("list", help="the recipes, with the page's numbers and ours")
    listing.add_argument("--json", action="store_true", help="one JSON object a line")
    listing.add_argument("--markdown", action="store_true", help="the models that were measured, as the README's table")
    listing.set_defaults(run=_list)

    train = commands.add_parser("train", help="a recipe to a run folder")
    train.add_argument("recipe", nargs="?", help="a file, or a name of `sslzoo list` such as cifar10/simclr; to --resume: that of --output")
    train.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="change keys of the recipe")
    train.add_argument("--output", type=Path, help="the run folder (default: runs/<name>)")
    train.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in the run folder")
    train.add_argument("--cpu", action="store_true", help="do not use an accelerator")
    train.set_defaults(run=_train)

    evaluate = commands.add_parser("evaluate", help="measure an encoder")
    evaluate.add_argument("model", help="a run folder or Hub id")
    evaluate.add_argument("--on", metavar="DATA", help="a data set (default: the one it was trained on)")
    evaluate.add_argument("--protocol", nargs="+", metavar="NAME", help="default: those of the recipe, else knn-instdisc-v2")
    evaluate.add_argument("--train-split")
    evaluate.add_argument("--test-split")
    evaluate.add_argument("--image-column")
    evaluate.add_argument("--label-column", help="where several columns may hold labels")
    evaluate.add_argument("--json", action="store_true", help="one JSON object a number")
    evaluate.add_argument("--cpu", action="store_true", help="do not use an accelerator")
    evaluate.set_defaults(run=_evaluate)

    reproduce = commands.add_parser("reproduce", help="measure again what a run or repository claims")
    reproduce.add_argument("model", help="a run folder or Hub id")
    reproduce.add_argument("--on", nargs="+", default=[], metavar="DATA", help="your copies of data sets that are not on the Hub")
    reproduce.add_argument("--json", action="store_true", help="one JSON object a finding")
    reproduce.add_argument("--cpu", action="store_true", help="do not use an accelerator")
    reproduce.set_defaults(run=_reproduce)

    imported = commands.add_parser("import", help="weights of others to a folder that everything here takes")
    imported.add_argument("source", help="a file of weights (.safetensors, .ckpt, .pth, ...), or a name such as lightly/simclr-res50")
    imported.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    imported.add_argument("--branch", help="which of several encoders in the file (default: the one that its authors evaluate)")
    imported.add_argument("--heads", type=int, help="a ViT's attention heads, which no file tells (default: as usual for its width)")
    imported.set_defaults(run=_import)

    card = commands.add_parser("card", help="write the model card of a run folder")
    card.add_argument("folder", type=Path)
    card.add_argument("--with-images", action="store_true", help="pictures of images also of data that may be private")
    card.set_defaults(run=_card)

    publish = commands.add_parser("publish", help="upload a run folder to the Hub")
    publish.add_argument("folder", type=Path, help="a run folder; with --all one that holds run folders")
    publish.add_argument("--all", action="store_true", help="every finished run in the folder")
    publish.add_argument("--to", required=True, metavar="NAMESPACE", help="a user or an organisation")
    publish.add_argument("--private", action="store_true")
    publish.add_argument("--dry-run", action="store_true", help="say what would be uploaded, and what it shows")
    publish.add_argument("--with-images", action="store_true", help="pictures of images also of data that may be private")
    publish.add_argument("--eval-results", action="store_true", help="the numbers also where the Hub's benchmark data sets collect them")
    publish.set_defaults(run=_publish)

    export = commands.add_parser("export", help="an encoder to ONNX")
    export.add_argument("model", help="a run folder or Hub id")
    export.add_argument("--output", type=Path, required=True, metavar="FILE.onnx")
    export.set_defaults(run=_export)

    embed = commands.add_parser("embed", help="features of a folder or data set to Parquet")
    embed.add_argument("model", help="a run folder or Hub id")
    embed.add_argument("data", help="a data set, or a folder of images")
    embed.add_argument("--output", type=Path, required=True, metavar="FILE.parquet")
    embed.add_argument("--split", default="train")
    embed.add_argument("--image-column")
    embed.add_argument("--label-column", help="none: no labels")
    embed.add_argument("--cpu", action="store_true", help="do not use an accelerator")
    embed.set_defaults(run=_embed)
    return parser


# What a command needs is imported by it, so that none waits for another's libraries.


def _list(options: argparse.Namespace) -> None:
    from sslzoo.hub import card_models, catalogue, markdown_table, read_entries

    if options.markdown:
        print(markdown_table(read_entries(card_models())[0]))
        return
    for row in catalogue():
        if options.json:
            print(json.dumps(row))
        else:
            numbers = "  ".join(
                f"{metric} {'-' if ours is None else f'{100 * ours:.1f}'} (page {'-' if theirs is None else f'{100 * theirs:.1f}'})"
                for metric, (ours, theirs) in _side_by_side(row).items()
            )
            print(f"{row['recipe']:28} {row['encoder']:8} batch {row['batch_size']:<5} epochs {row['epochs']:<4} {numbers}")


def _side_by_side(row: dict) -> dict[str, tuple[float | None, float | None]]:
    return {metric: (row["measured"].get(metric), row["reference"].get(metric)) for metric in {**row["reference"], **row["measured"]}}


def _train(options: argparse.Namespace) -> None:
    from sslzoo.recipe import parse_changes, read_recipe
    from sslzoo.run import Run
    from sslzoo.training import train

    source = options.recipe
    if source is None:
        if not (options.resume and options.output):
            raise InputError("name a recipe of `sslzoo list`, or a run folder with --resume --output")
        source = Run(options.output).recipe_file
    recipe = read_recipe(source, parse_changes(options.set))
    _quiet()
    run = train(recipe, options.output or Path("runs") / recipe.name, resume=options.resume, cpu=options.cpu)
    if _is_main_process():
        print(run.folder)


def _evaluate(options: argparse.Namespace) -> None:
    from sslzoo.inference import evaluate

    _quiet()
    numbers = evaluate(
        options.model, options.protocol, on=options.on, train_split=options.train_split, test_split=options.test_split,
        image_column=options.image_column, label_column=options.label_column, cpu=options.cpu,
    )  # fmt: skip
    if not _is_main_process():
        return
    for number in numbers:
        arguments = ", ".join(f"{key} {value}" for key, value in number["arguments"].items())
        line = f"{number['metric']} ({arguments}) on {number['dataset']} {number['split']}: {100 * number['value']:.2f} %"
        print(json.dumps(number) if options.json else line)


def _reproduce(options: argparse.Namespace) -> int:
    from sslzoo.reproduce import DIFFERENT, reproduce

    _quiet()
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

    _quiet()
    print(import_weights(options.source, options.output, branch=options.branch, heads=options.heads, report=print))


def _export(options: argparse.Namespace) -> None:
    from sslzoo.export import export_onnx

    _quiet()
    print(export_onnx(options.model, options.output))


def _card(options: argparse.Namespace) -> None:
    from sslzoo.hub import write_card

    _quiet()
    print(write_card(options.folder, with_images=options.with_images or None))


def _publish(options: argparse.Namespace) -> int:
    from sslzoo.hub import publish, publish_all

    _quiet()
    how = {"private": options.private, "dry_run": options.dry_run, "eval_results": options.eval_results}
    how["with_images"] = options.with_images
    if not options.all:
        print(publish(options.folder, options.to, **how))
        return 0
    said = publish_all(options.folder, options.to, **how)
    for name, line in said.items():
        print(f"{name}: {line or 'not finished, left out'}")
    return int(any(line is not None and line.startswith("error: ") for line in said.values()))


def _embed(options: argparse.Namespace) -> None:
    from sslzoo.inference import embed

    _quiet()
    count = embed(
        options.model, options.data, options.output, split=options.split, image_column=options.image_column,
        label_column=options.label_column, cpu=options.cpu,
    )  # fmt: skip
    print(f"{options.output}: {count} rows")


def _is_main_process() -> bool:
    """Of a launch, which tells it before the processes are connected."""
    return int(os.environ.get("RANK", 0)) == 0


def _disconnect() -> None:
    """Ends the connection of several processes, whose threads else abort one that ends, once in a while."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_initialized():
        distributed.destroy_process_group()


def _quiet() -> None:
    """The bars of transformers and datasets say nothing to those who wait for ours."""
    import datasets
    import transformers

    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()


if __name__ == "__main__":
    sys.exit(main())
