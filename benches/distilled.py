"""A small encoder taught by a trained one against the same encoder trained alone by SimCLR, at equal steps and batches.

    python benches/distilled.py --teacher runs/simclr-res6-digits
    python benches/distilled.py --recipes cifar10 --teacher RUN --set encoder=res6 dataset=cifar10 epochs=2 precision=fp32 --seeds 0 1 2

Prints kNN top-1 (k = 20) before the first step and after the last.
"""

import argparse
from pathlib import Path

from sslzoo.recipe import parse_changes, read_recipe
from sslzoo.run import Run
from sslzoo.training import train

_KNN = "knn_top1 k=20 T=0.1"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True, metavar="ID_OR_FOLDER")
    parser.add_argument("--recipes", default="digits", help="the folder of recipes: digits, cifar10, imagenette")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="changes to all of them")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--output", type=Path, default=Path("runs/distilled"))
    options = parser.parse_args()
    for seed in options.seeds:
        changes = {**parse_changes(options.set), "seed": seed}
        for method in ("seed", "simreg", "simclr"):
            student = read_recipe(f"{options.recipes}/seed", changes)
            length = {"epochs": student.epochs, "batch_size": student.batch_size}
            own = length if method == "simclr" else {"teacher": options.teacher}
            recipe = read_recipe(f"{options.recipes}/{method}", {**changes, **own})
            before, after = ends(train(recipe, options.output / f"{method}-{seed}", resume=True, cpu=True))
            print(f"seed {seed}, {method}: {before:.1f} % before, {after:.1f} % after", flush=True)


def ends(run: Run) -> tuple[float, float]:
    """kNN in percent before the first step and after the last."""
    measured = [100 * line[_KNN] for line in run.metrics() if _KNN in line]
    return measured[0], measured[-1]


if __name__ == "__main__":
    main()
