from .reading import load_recipe, parse_changes, parse_recipe, read_recipe, recipe_text, write_recipe
from .rehearsal import rehearse
from .schema import METRICS, Recipe
from .yaml_files import recipes_folder, shipped_recipes

__all__ = [
    "METRICS", "Recipe", "load_recipe", "parse_changes", "parse_recipe", "read_recipe", "recipe_text", "recipes_folder",
    "rehearse", "shipped_recipes", "write_recipe",
]  # fmt: skip
