"""Draws maps.png: images, each above the map of its features, whose colours are three principal components."""

from pathlib import Path

import torch

from sslzoo.encoders import feature_map
from sslzoo.evaluation import Preprocessing, load_encoder, pca_map
from sslzoo.run import Run

from .pictures import MAPS, QUERIES, WIDTH, blank_page, save_picture
from .query_images import center_squares, load_bank_and_queries, query_indices

_STEP, _GAP = WIDTH / QUERIES, 0.08  # inches


def draw_maps(folder: Path, device: torch.device) -> Path:
    """Draws the query images of `draw_neighbours`, each above its feature map.

    A map's red, green and blue are the first three principal components of the features of all positions of these images together.
    Raises `InputError` if data or encoder cannot be loaded, or the encoder has no feature map.
    """
    run = Run(folder)
    images = load_bank_and_queries(run.recipe, device)[1]
    preprocessing = Preprocessing.read(run.folder)
    encoder = load_encoder(run.folder, preprocessing).to(device)
    indices = query_indices(images)
    (batch,) = images.batches([indices])
    maps = pca_map(feature_map(encoder, preprocessing(batch.pixels, batch.sizes).to(device))).cpu()
    figure, page = blank_page(2 * _STEP)
    for row, pictures in enumerate((center_squares(images, indices), maps)):
        for column, picture in enumerate(pictures):
            left, top, side = column * _STEP + _GAP / 2, row * _STEP + _GAP / 2, _STEP - _GAP
            page.imshow(picture.numpy(), extent=(left, left + side, top + side, top), aspect="auto")
    return save_picture(figure, run.folder / MAPS, run.weights_sha256)
