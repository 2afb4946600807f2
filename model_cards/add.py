"""Adds finished runs to the zoo's cards, `python model_cards/add.py runs/*`: card, pictures and their sources, without the weights."""

import shutil
import sys

from sslzoo.hub import cards_folder, write_card
from sslzoo.recipe import write_recipe
from sslzoo.run import RECIPE, Run

FILES = ("README.md", "config.json", "curves.png", "maps.png", "metrics.jsonl", "neighbours.png", "results.json")


def main(folders: list[str]) -> None:
    for folder in folders:
        run = Run(folder)
        write_card(run.folder)
        target = cards_folder() / run.recipe.name
        target.mkdir(exist_ok=True)
        for name in FILES:
            if (run.folder / name).is_file():
                shutil.copy(run.folder / name, target / name)
        write_recipe(run.recipe.public(), target / RECIPE)
        print(target)


if __name__ == "__main__":
    main(sys.argv[1:])
