from .limits import METRICS
from .reading import is_as_written, load_recipe, parse_changes, parse_recipe, published_text, read_recipe, write_recipe
from .rehearsal import rehearse
from .schema import Recipe
from .starting_point import OWN_LICENSE, starting_folder
from .yaml_files import matching_recipes, read_values, recipes_folder, shipped_recipes

__all__ = [
    "METRICS", "OWN_LICENSE", "Recipe", "is_as_written", "load_recipe", "matching_recipes", "parse_changes", "parse_recipe", 
    "published_text", "read_recipe", "read_values", "recipes_folder", "rehearse", "shipped_recipes", "starting_folder", "write_recipe",
]  # fmt: skip
