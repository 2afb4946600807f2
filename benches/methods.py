"""Several recipes at one budget, over several seeds, as a Markdown table: kNN top-1 (k = 20) untrained and trained, mean and range.

    python benches/methods.py 'small/*' --seeds 0 1 2
    python benches/methods.py 'small/*' --set dataset=path/to/parquet epochs=5

Runs that are finished are read, and interrupted ones go on, when the command is repeated.
"""

import argparse
import statistics
import sys
from pathlib import Path

from sslzoo.errors import InputError, TrainingError
from sslzoo.recipe import matching_recipes, parse_changes, read_recipe
from sslzoo.run import Run
from sslzoo.training import train

_KNN = "knn_top1 k=20 T=0.1"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+", metavar="RECIPE", help="a recipe, or a pattern of shipped ones")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="changes to all of them")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("runs/methods"))
    options = parser.parse_args()
    names = [name for pattern in options.recipes for name in matching_recipes(pattern)]
    runs: dict[str, list[Run]] = {name: [] for name in names}
    for seed in options.seeds:
        for name in names:
            folder = options.output / f"{name.replace('/', '-')}-{seed}"
            try:
                recipe = read_recipe(name, {**parse_changes(options.set), "seed": seed})
                runs[name].append(train(recipe, folder, resume=True, cpu=options.cpu))
            except (InputError, TrainingError) as error:
                print(f"{name}, seed {seed}: {error}", file=sys.stderr)
    print(table(runs))


def table(runs: dict[str, list[Run]]) -> str:
    """A row for each recipe with runs, best first."""
    rows = []
    for name, found in runs.items():
        if found:
            ends = [[100 * line[_KNN] for line in run.metrics() if _KNN in line] for run in found]
            first, training = found[0].recipe, found[0].results()["training"]
            minutes = statistics.mean(run.results()["training"]["seconds"] for run in found) / 60
            trained = statistics.mean(values[-1] for values in ends)
            cells = [
                name, first.encoder_name, f"{training['images']:,} x {first.epochs}", f"{minutes:.1f}",
                summary([values[0] for values in ends]), summary([values[-1] for values in ends]), str(len(found)),
            ]  # fmt: skip
            rows.append((trained, "| " + " | ".join(cells) + " |"))
    head = "| recipe | encoder | images x epochs | minutes | untrained | trained | seeds |\n|---|---|---|---|---|---|---|"
    return "\n".join([head, *(row for _, row in sorted(rows, reverse=True))])


def summary(values: list[float]) -> str:
    """ "61.2 (60.1 to 62.0)", or the value alone where there is one."""
    spread = f" ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


if __name__ == "__main__":
    main()
