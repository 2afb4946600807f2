from .in_training import prepare_for_training
from .limits import METRICS
from .reading import is_as_written, load_recipe, parse_changes, parse_recipe, published_text, read_recipe, write_recipe
from .rehearsal import rehearse
from .schema import Recipe
from .starting_point import pinned_folder, run_license
from .teacher import lacks_teacher, load_teacher
from .yaml_files import matching_recipes, read_values, recipes_folder, shipped_recipes

__all__ = [
    "METRICS", "Recipe", "is_as_written", "lacks_teacher", "load_recipe", "load_teacher", "matching_recipes", "parse_changes",
    "parse_recipe", "pinned_folder", "prepare_for_training", "published_text", "read_recipe", "read_values", "recipes_folder", "rehearse",
    "run_license", "shipped_recipes", "write_recipe",
]  # fmt: skip
