"""The images of a recipe: those that are trained on, and those that are measured on meanwhile."""

import torch

from sslzoo.data import ImageSet, load_images
from sslzoo.evaluation import Data, Preprocessing, make_data
from sslzoo.processes import all_or_none, check_alike
from sslzoo.recipe import Recipe


def load_split_pair(recipe: Recipe, device: torch.device) -> tuple[ImageSet, Data | None]:
    """Training images, and what is measured on: None without labels or a test split. Raises `InputError`."""
    test = None
    with all_or_none():
        images = _load(recipe, recipe.train_split, device)
        if recipe.test_split is not None and images.labels is not None:
            test = _load(recipe, recipe.test_split, device)
    check_alike(f"the training images of {recipe.dataset}", {"fingerprint": images.fingerprint, "images": len(images)})
    return images, test and make_data(images, test, Preprocessing(recipe.eval_resize, recipe.eval_crop))


def _load(recipe: Recipe, split: str, device: torch.device) -> ImageSet:
    return load_images(
        recipe.dataset, split, image_column=recipe.image_column, label_column=recipe.label_column, canvas=recipe.canvas, device=device
    )
