"""The images of a recipe: the training split, what it is normalised with, and the test split for kNN during training."""

import dataclasses
import sys

import torch

from sslzoo.data import ImageSet, channel_statistics, load_images
from sslzoo.evaluation import Data, make_data, required_resolution
from sslzoo.processes import all_or_none, check_equal, rank
from sslzoo.recipe import Recipe


def load_split_pair(recipe: Recipe, device: torch.device) -> tuple[Recipe, ImageSet, Data | None]:
    """The recipe with mean and std, the training images, and the data for kNN: None without labels or a test split. Raises `InputError`."""
    test = None
    with all_or_none():
        images = _load(recipe, recipe.train_split, device)
        obstacle = _evaluation_obstacle(recipe, images)
        if recipe.test_split is not None and obstacle is None:
            test = _load(recipe, recipe.test_split, device)
            if test.labels is None:
                obstacle, test = f"{recipe.dataset} ({recipe.test_split}) has no labels", None
        if recipe.test_split is not None and obstacle and rank() == 0:
            print(f"no evaluation: {obstacle}", file=sys.stderr)
    check_equal(f"the training images of {recipe.dataset}", {"fingerprint": images.fingerprint, "images": len(images)})
    if recipe.mean is None:
        mean, std = channel_statistics(images)
        recipe = dataclasses.replace(recipe, mean=mean, std=std)
    return recipe, images, None if test is None else make_data(images, test, recipe.preprocessing)


def _evaluation_obstacle(recipe: Recipe, images: ImageSet) -> str | None:
    """Why kNN cannot be measured during training although the recipe leaves its default test split; None if it can."""
    if images.labels is None:
        return f"{recipe.dataset} ({recipe.train_split}) has no labels"
    if recipe.test_split == "test" and len(images.splits) == 1:
        return f"{recipe.dataset} has no split but {images.splits[0]}"
    return None


def _load(recipe: Recipe, split: str, device: torch.device) -> ImageSet:
    return load_images(
        recipe.dataset, split, image_column=recipe.image_column, label_column=recipe.label_column, channels=recipe.channels,
        canvas=recipe.canvas, resolution=required_resolution(recipe.preprocessing, recipe.make_views().values()), device=device,
        broken_share=recipe.broken_share,
    )  # fmt: skip
