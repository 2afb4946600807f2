"""The commands, arguments and help texts of the command line."""

import argparse
from pathlib import Path

from sslzoo import __version__


def make_parser() -> argparse.ArgumentParser:
    """The parser; its result holds the name of the command as `command`."""
    parser = argparse.ArgumentParser(prog="sslzoo", description="The Hugging Face-native zoo of self-supervised vision learning.")
    parser.add_argument("--version", action="version", version=f"sslzoo {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    listing = commands.add_parser("list", help="list the recipes, with the reference page's numbers and ours")
    listing.add_argument("filter", nargs="*", help="those whose name holds it, or fits a pattern such as '*/dino*'")
    listing.add_argument("--method", help="those of one method")
    listing.add_argument("--missing", action="store_true", help="those that nothing has been measured of")
    listing.add_argument("--json", action="store_true", help="one JSON object a line")
    listing.add_argument("--markdown", action="store_true", help="the measured models, as the README's table")

    train = commands.add_parser("train", help="train a recipe into a run folder")
    train.add_argument(
        "recipe", nargs="*",
        help="files, or names of `sslzoo list` such as cifar10/simclr or 'cifar10/*'; several are trained one after the other, what is "
        "finished is kept and what was interrupted goes on (default: that of --output)",
    )  # fmt: skip
    train.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="change keys of the recipe")
    train.add_argument("--output", type=Path, help="the run folder (default: runs/<name>)")
    train.add_argument("--resume", action="store_true", help="continue from the newest checkpoint in the run folder")
    train.add_argument("--evaluate", action="store_true", help="then measure the recipe's protocols, as `sslzoo evaluate` does")
    train.add_argument(
        "--checkpoints-to", metavar="REPOSITORY",
        help="keep the run so far in this private repository on the Hub, and continue from there where --output holds nothing yet",
    )  # fmt: skip
    train.add_argument("--to", metavar="NAMESPACE", help="then publish the run there, as `sslzoo publish` does")
    train.add_argument("--private", action="store_true", help="into a private repository")
    _add_jobs(train)
    _add_minutes(train)
    _add_cpu(train)

    jobs = commands.add_parser("jobs", help="list the runs on Hugging Face Jobs, or come back to the log of one")
    jobs.add_argument("job", nargs="?", help="the id of a job (default: list them)")
    jobs.add_argument("--namespace", help="default: the token's user")
    jobs.add_argument("--cancel", action="store_true", help="end the job")

    commands.add_parser("methods", help="list the methods with their papers")
    commands.add_parser("encoders", help="list the encoders that have a short name")

    explaining = commands.add_parser("explain", help="show every key of a recipe, its value, where that comes from, and what it means")
    explaining.add_argument("recipe", help="a file, or a name of `sslzoo list`")
    explaining.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="change keys of the recipe")
    explaining.add_argument("--json", action="store_true", help="one JSON object a key")

    compare = commands.add_parser("compare", help="show runs next to each other")
    compare.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="run folders")
    compare.add_argument("--curves", type=Path, metavar="FILE.png", help="also draw their curves into one picture")

    evaluate = commands.add_parser("evaluate", help="measure an encoder")
    evaluate.add_argument("model", help="a run folder or Hub id")
    evaluate.add_argument("--on", metavar="DATA", help="a data set (default: the one it was trained on)")
    evaluate.add_argument("--protocol", nargs="+", metavar="NAME", help="default: those of the recipe, else knn-instdisc-v2")
    evaluate.add_argument("--train-split")
    evaluate.add_argument("--test-split")
    evaluate.add_argument("--image-column")
    evaluate.add_argument("--label-column", help="needed if several columns may hold labels")
    evaluate.add_argument("--json", action="store_true", help="one JSON object a number")
    evaluate.add_argument("--to", metavar="NAMESPACE", help="of the job with --on-jobs; a model there is published again with the numbers")
    _add_jobs(evaluate)
    _add_minutes(evaluate)
    _add_cpu(evaluate)

    reproduce = commands.add_parser("reproduce", help="measure again what a run or repository claims")
    reproduce.add_argument("model", help="a run folder or Hub id")
    reproduce.add_argument("--on", nargs="+", default=[], metavar="DATA", help="your copies of data sets that are not on the Hub")
    reproduce.add_argument("--json", action="store_true", help="one JSON object a finding")
    _add_cpu(reproduce)

    imported = commands.add_parser("import", help="convert others' weights to a model folder")
    imported.add_argument("source", help="a file of weights (.safetensors, .ckpt, .pth, ...), or a name such as lightly/simclr-res50")
    imported.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    imported.add_argument("--branch", help="which of several encoders in the file (default: the one that its authors evaluate)")
    imported.add_argument("--heads", type=int, help="a ViT's attention heads, which no file says (default: the usual number for its width)")

    card = commands.add_parser("card", help="write the model card of a run folder")
    card.add_argument("folder", type=Path)
    card.add_argument(
        "--seeds", nargs="+", type=Path, default=[], metavar="FOLDER",
        help="runs of the same recipe with other seeds: the card shows the mean and the range of all",
    )  # fmt: skip
    _add_with_images(card)

    publish = commands.add_parser("publish", help="upload a run folder to the Hub")
    publish.add_argument("folder", type=Path, help="a run folder; with --all one that holds run folders")
    publish.add_argument("--all", action="store_true", help="every finished run in the folder")
    publish.add_argument("--to", required=True, metavar="NAMESPACE", help="a user or an organisation")
    publish.add_argument("--private", action="store_true")
    publish.add_argument("--dry-run", action="store_true", help="list what would be uploaded, and what it shows")
    _add_with_images(publish)

    export = commands.add_parser("export", help="export an encoder to ONNX")
    export.add_argument("model", help="a run folder or Hub id")
    export.add_argument("--output", type=Path, required=True, metavar="FILE.onnx")

    embed = commands.add_parser("embed", help="write the features of a data set to Parquet")
    _add_model_and_data(embed)
    embed.add_argument("--output", type=Path, required=True, metavar="FILE.parquet")
    embed.add_argument("--patches", action="store_true", help="one vector for each patch, in place of one for each image")
    embed.add_argument("--push", metavar="NAMESPACE/NAME", help="also upload the file and a card as a data set on the Hub")
    embed.add_argument("--private", action="store_true", help="create a private data set")
    embed.add_argument("--of-private-data", action="store_true", help="push features, labels and names even if the data may be private")
    _add_cpu(embed)

    similar = commands.add_parser("similar", help="find near duplicates in a folder, or what is most similar to an image")
    _add_model_and_data(similar)
    similar.add_argument("--image", metavar="FILE", help="find its nearest neighbours; also the name of an image in the data")
    similar.add_argument("--k", type=int, default=10, help="nearest neighbours of each image (default: %(default)s)")
    similar.add_argument("--threshold", type=float, default=0.95, help="cosine similarity of near duplicates (default: %(default)s)")
    similar.add_argument("--output", type=Path, default=Path("similar"), metavar="FOLDER", help="default: %(default)s")
    similar.add_argument("--json", action="store_true", help="one JSON object a pair")
    _add_cpu(similar)
    return parser


def _add_model_and_data(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", help="a run folder or Hub id")
    command.add_argument("data", help="a data set, or a folder of images")
    command.add_argument("--split", default="train")
    command.add_argument("--image-column")
    command.add_argument("--label-column", help="none: no labels")


def _add_cpu(command: argparse.ArgumentParser) -> None:
    command.add_argument("--cpu", action="store_true", help="do not use an accelerator")


def _add_jobs(command: argparse.ArgumentParser) -> None:
    command.add_argument("--on-jobs", metavar="FLAVOR", help="on Hugging Face Jobs, which cost money, with hardware such as a10g-small")
    command.add_argument("--timeout", help="after which the job is ended, such as 90m or 1d (default: 4h)")
    command.add_argument("--dry-run", action="store_true", help="show the job, its price and what is known of its time, and send nothing")


def _add_minutes(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--minutes", type=float, help="save and stop within so many minutes, with exit code 75; the same command again continues"
    )


def _add_with_images(command: argparse.ArgumentParser) -> None:
    command.add_argument("--with-images", action="store_true", help="show pictures of images even if the data may be private")
