"""Continued pretraining against training from scratch, at equal steps: SimCLR on one data set, then on another from its weights.

    python benches/continued.py --first cifar10/train-00000.parquet --then imagenette160 --seeds 0 1 2

Prints kNN top-1 (k = 20) on the second data set: of the first run's weights, after each epoch of going on from them, and after each of
training from scratch; --plot draws these. The first run has one seed, as a published encoder is one; the seeds are of what follows.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

from sslzoo.hub.curves import blank_figure, draw_legend, draw_panel
from sslzoo.hub.pictures import save_picture
from sslzoo.recipe import read_recipe
from sslzoo.run import Run
from sslzoo.training import train

_KNN = "knn_top1 k=20 T=0.1"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", required=True, metavar="DATA", help="whose labels are not used")
    parser.add_argument("--then", required=True, metavar="DATA", help="with labels and a split for tests")
    parser.add_argument("--test-split", default="test", help="of the second data set")
    parser.add_argument("--encoder", default="res6")
    parser.add_argument("--image-size", type=int, default=32, help="px, of both")
    parser.add_argument("--epochs", type=int, nargs=2, default=(2, 2), metavar=("FIRST", "THEN"))
    parser.add_argument("--encoder-lr-factor", type=float, default=1.0, help="when going on")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--output", type=Path, default=Path("runs/continued"))
    parser.add_argument("--plot", type=Path, metavar="FILE", help="such as curves.png")
    options = parser.parse_args()
    shared: dict[str, Any] = {"image_size": options.image_size, "precision": "fp32", "checkpoint_every": 10**6}
    first = {**shared, "encoder": options.encoder, "dataset": options.first, "epochs": options.epochs[0], "test_split": None}
    start = run(first, options.output / "first")
    then = {**shared, "dataset": options.then, "epochs": options.epochs[1], "test_split": options.test_split}
    ways = {
        "continued": {"init_from": str(start.folder), "encoder_lr_factor": options.encoder_lr_factor},
        "scratch": {"encoder": options.encoder},
    }
    gains: list[float] = []
    found: dict[str, list[list[float]]] = {way: [] for way in ways}
    for seed in options.seeds:
        curves = {way: curve(run({**then, **keys, "seed": seed}, options.output / f"{way}-{seed}")) for way, keys in ways.items()}
        gains.append(curves["continued"][-1] - curves["scratch"][-1])
        for way, values in curves.items():
            found[way].append(values)
            print(f"seed {seed}, {way}: " + ", ".join(f"{value:.1f}" for value in values) + " %")
    spread = f", from {min(gains):.1f} to {max(gains):.1f}" if len(gains) > 1 else ""
    print(f"continued minus from scratch: {statistics.mean(gains):+.1f} points{spread}")
    if options.plot:
        plot(found, options.plot)


def run(changes: dict[str, Any], folder: Path) -> Run:
    """The run of the CIFAR-10 recipe with these changes; resumed or read where it is there already."""
    return train(read_recipe("cifar10/simclr", changes), folder, resume=True, cpu=True)


def plot(found: dict[str, list[list[float]]], file: Path) -> None:
    """Draws kNN after each epoch as a PNG: the mean over the seeds, and its range as a band."""
    figure = blank_figure(3.2)
    axes = figure.add_subplot()
    points = {way: list(zip(*curves, strict=True)) for way, curves in found.items()}
    curves = {way: (list(range(len(means))), list(map(statistics.mean, means))) for way, means in points.items()}
    draw_panel(axes, "kNN top-1 in percent", curves)
    for line, values in zip(axes.get_lines(), points.values(), strict=True):
        axes.fill_between(
            range(len(values)), list(map(min, values)), list(map(max, values)), color=line.get_color(), alpha=0.2, linewidth=0
        )
    axes.set_xlabel("epoch")
    draw_legend(axes)
    save_picture(figure, file)


def curve(run: Run) -> list[float]:
    """kNN in percent before the first step and after each epoch."""
    return [100 * line[_KNN] for line in run.metrics() if _KNN in line]


if __name__ == "__main__":
    main()
