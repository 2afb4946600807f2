"""The images of a recipe: those that are trained on, and those that are measured on meanwhile."""

import sys

import torch

from sslzoo.data import ImageSet, load_images
from sslzoo.evaluation import Data, Preprocessing, make_data, required_resolution
from sslzoo.processes import all_or_none, check_alike, rank
from sslzoo.recipe import Recipe


def load_split_pair(recipe: Recipe, device: torch.device) -> tuple[ImageSet, Data | None]:
    """Training images, and what is measured on: None without labels or a test split. Raises `InputError`."""
    preprocessing, test = Preprocessing(recipe.eval_resize, recipe.eval_crop), None
    with all_or_none():
        images = _load(recipe, recipe.train_split, preprocessing, device)
        unmeasured = _unmeasured(recipe, images)
        if recipe.test_split is not None and unmeasured is None:
            test = _load(recipe, recipe.test_split, preprocessing, device)
            if test.labels is None:
                unmeasured, test = f"{recipe.dataset} ({recipe.test_split}) has no labels", None
        if recipe.test_split is not None and unmeasured and rank() == 0:
            print(f"no evaluation: {unmeasured}", file=sys.stderr)
    check_alike(f"the training images of {recipe.dataset}", {"fingerprint": images.fingerprint, "images": len(images)})
    return images, None if test is None else make_data(images, test, preprocessing)


def _unmeasured(recipe: Recipe, images: ImageSet) -> str | None:
    """Why nothing can be measured while training on `images`, although a recipe asks for it without being told to; None where it can."""
    if images.labels is None:
        return f"{recipe.dataset} ({recipe.train_split}) has no labels"
    if recipe.test_split == "test" and len(images.splits) == 1:
        return f"{recipe.dataset} has no split but {images.splits[0]}"
    return None


def _load(recipe: Recipe, split: str, preprocessing: Preprocessing, device: torch.device) -> ImageSet:
    return load_images(
        recipe.dataset, split, image_column=recipe.image_column, label_column=recipe.label_column, canvas=recipe.canvas,
        resolution=required_resolution(preprocessing, recipe.make_views().values()), device=device, broken_share=recipe.broken_share,
    )  # fmt: skip
