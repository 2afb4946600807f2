"""The images of a recipe: those that are trained on, and those that are measured on meanwhile."""

import logging

import torch

from sslzoo.data import ImageSet, load_images
from sslzoo.evaluation import Data, Preprocessing, enough_for, make_data
from sslzoo.processes import all_or_none, check_alike
from sslzoo.recipe import Recipe

_log = logging.getLogger(__name__)


def load_split_pair(recipe: Recipe, device: torch.device) -> tuple[ImageSet, Data | None]:
    """Training images, and what is measured on: None without labels or a test split. Raises `InputError`."""
    preprocessing, test = Preprocessing(recipe.eval_resize, recipe.eval_crop), None
    with all_or_none():
        images = _load(recipe, recipe.train_split, preprocessing, device)
        if recipe.test_split is not None and images.labels is not None:
            test = _load(recipe, recipe.test_split, preprocessing, device)
            if test.labels is None:
                _log.warning("%s (%s) has no labels: nothing is measured while training", test.source, test.split)
                test = None
    check_alike(f"the training images of {recipe.dataset}", {"fingerprint": images.fingerprint, "images": len(images)})
    return images, None if test is None else make_data(images, test, preprocessing)


def _load(recipe: Recipe, split: str, preprocessing: Preprocessing, device: torch.device) -> ImageSet:
    return load_images(
        recipe.dataset, split, image_column=recipe.image_column, label_column=recipe.label_column, canvas=recipe.canvas,
        enough=enough_for(preprocessing, recipe.make_views().values()), device=device,
    )  # fmt: skip
