"""Every row of the reference page has its recipe; where the two differ, the reason stands here.

reference_recipes.csv holds what the page says of each row, by the recipe's keys, and reference_views.csv the views that its last column
counts: "2*v9@224" is twice v9 with 224 px. What is empty there the page does not have.
"""

import csv
from pathlib import Path
from typing import Any

import pytest
import yaml

from sslzoo.optim import peak_lr
from sslzoo.recipe import Recipe, read_recipe, shipped_recipes

# What differs knowingly, by recipe (None: all) and key: why.
DEVIATIONS = {
    (None, "precision"): "bf16, which needs no loss scaling: the page has fp16 on ImageNet-1k and fp32 with TF32 on the others",
    ("imagenette/simmim", "views"): "one view: the page makes two and trains on the first",
}


def table(name: str) -> dict[str, dict[str, Any]]:
    """The rows by their first column; numbers and truths are such, empty fields are left out."""
    with open(Path(__file__).with_name(name), newline="") as file:
        rows = [list(row.items()) for row in csv.DictReader(file)]
    return {first: {key: yaml.safe_load(value) for key, value in rest if value} for (_, first), *rest in rows}


def expected_of(row: dict[str, Any]) -> dict[str, Any]:
    reference = {metric: float(value) for metric, value in (number.split("=") for number in row["reference"].split())}
    views = []
    for part in row["views"].split():
        count, _, view = part.partition("*")
        kind, _, size = view.partition("@")
        views += int(count) * [{"size": int(size), **VIEWS[kind]}]
    return {"clip_norm": None, **row, "momentum": str(row["momentum"]), "reference": reference, "views": views}


def of_the_recipe(recipe: Recipe, expected: dict[str, Any]) -> dict[str, Any]:
    values = {key: getattr(recipe, key) for key in expected if hasattr(recipe, key)}
    values["lr"] = round(peak_lr(recipe.lr, recipe.lr_scaling, recipe.batch_size), 9)
    values["momentum"] = ",".join(f"{beta:g}" for beta in recipe.betas) if recipe.optimizer in ("adam", "adamw") else f"{recipe.momentum:g}"
    rendered = [view for view in recipe.make_views().values() for _ in range(view.count)]
    wanted = expected["views"] + [{}] * (len(rendered) - len(expected["views"]))
    values["views"] = [{field: getattr(view, field) for field in fields} for view, fields in zip(rendered, wanted, strict=False)]
    return values


VIEWS = {
    name: {key: tuple(map(float, value.split())) if key in ("scale", "blur_sigma") else value for key, value in view.items()}
    for name, view in table("reference_views.csv").items()
}
ROWS = table("reference_recipes.csv")


def test_every_row_has_a_recipe_and_every_recipe_with_a_reference_a_row():
    assert len(ROWS) == 76
    assert {name for name, file in shipped_recipes().items() if read_recipe(file).reference} == ROWS.keys()


@pytest.mark.parametrize("name", sorted(ROWS))
def test_recipe_is_the_row_but_for_known_deviations(name):
    expected = expected_of(ROWS[name])
    found = of_the_recipe(read_recipe(shipped_recipes()[name]), expected)
    different = {key: (found[key], expected[key]) for key in expected if found[key] != expected[key]}
    known = {key for recipe, key in DEVIATIONS if recipe in (None, name)}
    assert different.keys() - known == set(), {key: different[key] for key in different.keys() - known}
    assert known <= different.keys(), f"no longer different: {known - different.keys()}"
