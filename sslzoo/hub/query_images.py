"""The images that a card's pictures show: a few queries, evenly spread over the test split, and the training images."""

import torch
from torch import Tensor

from sslzoo.data import ImageSet, load_images
from sslzoo.data.visible import visible
from sslzoo.evaluation import required_resolution
from sslzoo.recipe import Recipe

from .pictures import QUERIES


def load_bank_and_queries(recipe: Recipe, device: torch.device) -> tuple[ImageSet, ImageSet]:
    """The training images, and the images to query: labelled test images if there are any, else the training images again.

    Raises `InputError` for a data set that cannot be loaded.
    """
    bank = _load(recipe, recipe.train_split, device)
    has_test_images = recipe.test_split and bank.labels is not None and len(bank.splits) > 1
    return bank, _load(recipe, recipe.test_split, device) if has_test_images else bank


def query_indices(images: ImageSet) -> Tensor:
    """Indices of at most `QUERIES` images, evenly spread, int64 (n,)."""
    return torch.linspace(0, len(images) - 1, min(QUERIES, len(images))).long()


def center_squares(images: ImageSet, indices: Tensor) -> list[Tensor]:
    """The largest centred square of each image, uint8 (side, side, 3), as `visible` shows it."""
    squares = []
    for batch in images.batches([indices]):
        for pixels, (height, width) in zip(batch.pixels.cpu(), batch.sizes.tolist(), strict=True):
            side = min(height, width)
            top, left = (height - side) // 2, (width - side) // 2
            square = pixels[:, top : top + side, left : left + side].permute(1, 2, 0)
            squares.append(torch.from_numpy(visible(square.numpy())))
    return squares


def _load(recipe: Recipe, split: str, device: torch.device) -> ImageSet:
    return load_images(
        recipe.dataset, split, image_column=recipe.image_column, label_column=recipe.label_column, channels=recipe.channels,
        canvas=recipe.canvas, resolution=required_resolution(recipe.preprocessing, recipe.make_views().values()), device=device,
        broken_share=recipe.broken_share,
    )  # fmt: skip
