"""Draws neighbours.png: query images, each with its nearest training images by the published encoder."""

from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor
from transformers import PreTrainedModel

from sslzoo.data import ImageSet, without_broken
from sslzoo.encoders import features
from sslzoo.evaluation import Preprocessing, extract, load_encoder, nearest
from sslzoo.run import Run

from .markdown import one_line
from .pictures import INK, NEAREST, NEIGHBOURS, QUERIES, WIDTH, blank_page, save_picture
from .query_images import center_squares, load_bank_and_queries, query_indices

SAME_CLASS, OTHER_CLASS = "#009E73", "#D55E00"  # frames; distinguishable with colour blindness
_BLOCKS = 2  # columns of queries with their neighbours
# Inches.
_HEADING, _EDGE, _GAP = 0.32, 0.04, 0.2
_STEP = (WIDTH / _BLOCKS - _EDGE - _GAP) / (1 + NEAREST)
CELL = _STEP - 0.06
_ROW = CELL + 0.24
_LEGEND = 0.66  # between the right ends of the legend's two texts
_MAX_LETTERS = 12  # of a class's name below a cell


def draw_neighbours(folder: Path, device: torch.device) -> Path:
    """Draws 8 test images, evenly spread, each with its 6 nearest training images.

    Without a labelled test split the queries are training images, and each is left out of its own neighbours. With labels, the colour
    of a frame shows whether a neighbour has the query's class. Raises `InputError` if data or encoder cannot be loaded.
    """
    run = Run(folder)
    loaded_bank, queries = load_bank_and_queries(run.recipe, device)
    preprocessing = Preprocessing.read(run.folder)
    encoder = load_encoder(run.folder, preprocessing).to(device)
    bank_features, _ = extract(encoder, loaded_bank, preprocessing)
    bank = without_broken(loaded_bank)  # the broken ones are known only after all have been read
    queries = bank if queries is loaded_bank else without_broken(queries)
    indices = query_indices(queries)
    query_features = _features(encoder, queries, indices, preprocessing)
    rows = nearest(query_features, bank_features, min(NEAREST + 1, len(bank)))[1].cpu()
    if queries is bank:
        rows = torch.stack([found[found != own][: len(found) - 1] for found, own in zip(rows, indices, strict=True)])
    rows = rows[:, :NEAREST]
    query_pictures, neighbour_pictures = center_squares(queries, indices), iter(center_squares(bank, rows.flatten()))
    figure, page = _page(queries is bank, bank.labels is not None)
    for query, index in enumerate(indices.tolist()):
        name = _class_name(queries, index)
        _show(page, _corner(query, 0), query_pictures[query], INK, name)
        for rank, row in enumerate(rows[query].tolist(), 1):
            colour = INK if bank.labels is None else SAME_CLASS if _class_name(bank, row) == name else OTHER_CLASS
            _show(page, _corner(query, rank), next(neighbour_pictures), colour, _class_name(bank, row))
    return save_picture(figure, run.folder / NEIGHBOURS, run.weights_sha256)


@torch.no_grad()
def _features(encoder: PreTrainedModel, images: ImageSet, indices: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Features of a few images, (n, width), on the encoder's device."""
    device = next(encoder.parameters()).device
    batches = [preprocessing(batch.pixels, batch.sizes).to(device) for batch in images.batches([indices])]
    return torch.cat([features(encoder, batch) for batch in batches])


def _class_name(images: ImageSet, index: int) -> str:
    """The name of the image's class, "" for an image without a label."""
    label = -1 if images.labels is None else int(images.labels[index])
    if label < 0:
        return ""
    return one_line(images.label_names[label]) if images.label_names else f"class {label}"


def _page(within_training_images: bool, labelled: bool) -> tuple[Figure, Axes]:
    """An empty picture with its headings."""
    figure, axes = blank_page(_HEADING + QUERIES // _BLOCKS * _ROW)
    style = {"y": _HEADING / 2, "fontsize": 8, "va": "center"}
    for query in range(0, QUERIES, QUERIES // _BLOCKS):
        axes.text(_corner(query, 0)[0], s="image" if within_training_images else "test image", color=INK, **style)
        axes.text(_corner(query, 1)[0], s="its nearest training images, the nearest first", color=INK, **style)
    if labelled:
        right = _corner(QUERIES - 1, NEAREST)[0] + CELL
        axes.text(right - _LEGEND, s="■ same class", color=SAME_CLASS, ha="right", **style)
        axes.text(right, s="■ another", color=OTHER_CLASS, ha="right", **style)
    return figure, axes


def _corner(query: int, rank: int) -> tuple[float, float]:
    """The upper left corner, in inches, of a query (rank 0) or of one of its neighbours (1, 2, ...)."""
    block, row = divmod(query, QUERIES // _BLOCKS)
    return _EDGE + block * (WIDTH + _GAP) / _BLOCKS + rank * _STEP + (_GAP / 2 if rank else 0), _HEADING + row * _ROW


def _show(page: Axes, corner: tuple[float, float], pixels: Tensor, frame: str, name: str) -> None:
    left, top = corner
    page.imshow(pixels.numpy(), extent=(left, left + CELL, top + CELL, top), aspect="auto")
    page.add_patch(Rectangle(corner, CELL, CELL, fill=False, edgecolor=frame, linewidth=2.2))
    text = name if len(name) <= _MAX_LETTERS else name[: _MAX_LETTERS - 1] + "…"
    style = {"fontsize": 6.5, "color": INK, "ha": "center", "va": "top", "parse_math": False}  # a "$" is a "$"
    page.text(left + CELL / 2, top + CELL + 0.04, text, **style)
