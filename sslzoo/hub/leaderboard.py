"""The zoo as a table: every recipe with the page's numbers, and ours from the cards."""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from sslzoo.recipe import METRICS, read_recipe, shipped_recipes


def cards_folder() -> Path:
    """Where the cards that come with sslzoo are: inside the installed package, else beside it in the checkout."""
    package = Path(__file__).parents[1]
    inside = package / "model_cards"
    return inside if inside.is_dir() else package.parent / "model_cards"


def catalogue() -> list[dict[str, Any]]:
    """One row a recipe: recipe, dataset, method, variant, encoder, batch_size, epochs, name, reference and measured.

    dataset: the recipe's folder. variant: what stands behind the method in the file's name. reference: the page's numbers by metric, as
    fractions. measured: ours, from the card of that name; empty where there is none.
    """
    rows = []
    for name, file in shipped_recipes().items():
        recipe = read_recipe(file)
        dataset, _, stem = name.partition("/")
        rows.append(
            {
                "recipe": name, "dataset": dataset, "method": recipe.method, "variant": stem[len(recipe.method) + 1 :] or None,
                "encoder": recipe.encoder, "batch_size": recipe.batch_size, "epochs": recipe.epochs, "name": recipe.name,
                "reference": recipe.reference, "measured": _measured(cards_folder() / f"{recipe.name}.md"),
            }
        )  # fmt: skip
    return rows


def _measured(card: Path) -> dict[str, float]:
    """The numbers of the published weights; kNN as the page has it nearly everywhere, k = 200 at temperature 0.1."""
    if not card.is_file():
        return {}
    numbers = ModelCard.load(card).data.to_dict()["sslzoo"]["numbers"]
    return {
        number["metric"]: number["value"] for number in numbers
        if number["metric"] in METRICS and number["when"] == "last"
        and (number["arguments"].get("k", 200), number["arguments"].get("temperature", 0.1)) == (200, 0.1)
    }  # fmt: skip
