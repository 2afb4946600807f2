"""The images of a recipe: those that are trained on, and those that are measured on meanwhile."""

import torch

from sslzoo.data import ImageSet, load_images
from sslzoo.evaluation import Data, Preprocessing, make_data
from sslzoo.recipe import Recipe


def load_split_pair(recipe: Recipe, device: torch.device) -> tuple[ImageSet, Data | None]:
    """Training images, and what is measured on: None without labels or a test split. Raises `InputError`."""
    images = _load(recipe, recipe.train_split, device)
    if recipe.test_split is None or images.labels is None:
        return images, None
    return images, make_data(images, _load(recipe, recipe.test_split, device), Preprocessing(recipe.eval_resize, recipe.eval_crop))


def _load(recipe: Recipe, split: str, device: torch.device) -> ImageSet:
    return load_images(
        recipe.dataset, split, image_column=recipe.image_column, label_column=recipe.label_column, canvas=recipe.canvas, device=device
    )
