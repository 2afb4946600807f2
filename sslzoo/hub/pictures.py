"""The card's pictures: curves of the training, nearest neighbours, and maps of features. The same run gives the same bytes."""

import math
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel

from sslzoo.data import ImageSet, load_images, without_broken
from sslzoo.encoders import features
from sslzoo.evaluation import Preprocessing, encoder_for, extract, feature_map, nearest, pca_map, required_resolution
from sslzoo.files import whole
from sslzoo.recipe import Recipe
from sslzoo.run import Run

from .markdown import one_line
from .results_validation import checked_metrics
from .validation import is_number

CURVES = "curves.png"
NEIGHBOURS = "neighbours.png"
MAPS = "maps.png"
_RANK, _KNN = "feature_rank", "kNN top-1 in percent"
_ACCURACY = "knn_top1 "  # a key of metrics.jsonl is "knn_top1 k=20 T=0.1"
_WEIGHTS = "Weights"  # the PNG's text that names the weights
_DOTS = 160  # per inch: 1600 px for 10 inches, sharp at a card's width
_LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")  # told apart by colour-blind eyes too
_DASHES = ("-", "--", "-.", ":")
_INK, _PALE, _RIGHT, _WRONG = "#333333", "#bbbbbb", "#009E73", "#D55E00"
_QUERIES, _NEAREST = 8, 6
IMAGES_SHOWN = {NEIGHBOURS: _QUERIES * (1 + _NEAREST), MAPS: _QUERIES}  # of the data set, where it has as many
_BLOCKS = 2  # of queries, side by side
# Inches.
_WIDTH, _HEAD, _EDGE, _GAP = 10.0, 0.32, 0.04, 0.2
_STEP = (_WIDTH / _BLOCKS - _EDGE - _GAP) / (1 + _NEAREST)
_CELL = _STEP - 0.06
_ROW = _CELL + 0.24
_LEGEND = 0.66  # between the ends of the two parts of the legend
_LETTERS = 12  # of a class's name, below a cell


def draw_curves(run: Run) -> Path:
    """Draws loss, learning rate and, where they were logged, feature rank and kNN accuracy over the steps into curves.png.

    Raises `InputError`.
    """
    lines = checked_metrics(run)
    keys = dict.fromkeys(key for line in lines for key in line if key.startswith(_ACCURACY))
    panels = {"loss": {"loss": _curve(lines, "loss")}, "learning rate": {"lr": _curve(lines, "lr")}}
    if any(_RANK in line for line in lines):
        panels["effective rank of the features"] = {"rank": _curve(lines, _RANK)}
    if keys:
        panels[_KNN] = {key.removeprefix(_ACCURACY): _curve(lines, key, 100) for key in keys}
    figure = Figure(figsize=(10, 2.9 * math.ceil(len(panels) / 2)), dpi=_DOTS, layout="constrained")
    for place, (title, curves) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(math.ceil(len(panels) / 2), 2, place)
        _draw(axes, title, curves)
        if title == _KNN:
            reference = run.recipe.reference.get("knn_top1")
            if reference is not None:
                axes.axhline(100 * reference, color=_INK, linewidth=1, linestyle=":", label="reference")
            axes.legend(frameon=False, fontsize=7, labelcolor=_INK, handlelength=3)
        axes.set_xlim(0, 1.03 * max(line["step"] for line in lines))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return _save(figure, run.folder / CURVES)


def draw_neighbours(folder: Path, device: torch.device) -> Path:
    """Draws 8 test images, evenly spread, each with its 6 nearest training images by the published encoder, into neighbours.png.

    Where there is no labelled test split, training images are asked about, and each is left out of its own neighbours. Where there are
    labels, a frame's colour tells neighbours of the same class. Raises `InputError` when data or encoder cannot be loaded.
    """
    run = Run(folder)
    bank, asked = _bank_and_asked(run.recipe, device)
    preprocessing = Preprocessing.read(run.folder)
    encoder = encoder_for(run.folder, preprocessing).to(device)
    bank_features, _ = extract(encoder, bank, preprocessing)
    whole, bank = bank, without_broken(bank)  # which is known now
    asked = bank if asked is whole else without_broken(asked)
    positions = torch.linspace(0, len(asked) - 1, min(_QUERIES, len(asked))).long()
    queries = _features(encoder, asked, positions, preprocessing)
    rows = nearest(queries, bank_features, min(_NEAREST + 1, len(bank)))[1].cpu()
    if asked is bank:
        rows = torch.stack([found[found != own][: len(found) - 1] for found, own in zip(rows, positions, strict=True)])
    rows = rows[:, :_NEAREST]
    shown, near = _squares(asked, positions), iter(_squares(bank, rows.flatten()))
    figure, page = _page(asked is bank, bank.labels is not None)
    for query, own in enumerate(positions.tolist()):
        _show(page, _place(query, 0), shown[query], _INK, _class(asked, own))
        for rank, row in enumerate(rows[query].tolist()):
            colour = _INK if bank.labels is None else _RIGHT if _class(bank, row) == _class(asked, own) else _WRONG
            _show(page, _place(query, 1 + rank), next(near), colour, _class(bank, row))
    return _save(figure, run.folder / NEIGHBOURS, {_WEIGHTS: run.weights_sha256})


def draw_maps(folder: Path, device: torch.device) -> Path:
    """Draws the images of `draw_neighbours`, 8 test images or training images, each above the map of its features, into maps.png.

    A map's red, green and blue are the first three principal components of the features of all places of these images together.
    Raises `InputError` when data or encoder cannot be loaded, or the encoder gives no map.
    """
    run = Run(folder)
    images = _bank_and_asked(run.recipe, device)[1]
    preprocessing = Preprocessing.read(run.folder)
    encoder = encoder_for(run.folder, preprocessing).to(device)
    positions = torch.linspace(0, len(images) - 1, min(_QUERIES, len(images))).long()
    (batch,) = images.batches([positions])
    maps = pca_map(feature_map(encoder, preprocessing(batch.pixels, batch.sizes).to(device))).cpu()
    step = _WIDTH / _QUERIES
    side, height = step - 0.08, 2 * step
    figure = Figure(figsize=(_WIDTH, height), dpi=_DOTS)
    page = figure.add_axes((0, 0, 1, 1), xlim=(0, _WIDTH), ylim=(height, 0), autoscale_on=False)
    page.set_axis_off()
    for row, pictures in enumerate((_squares(images, positions), maps)):
        for column, picture in enumerate(pictures):
            left, top = column * step + 0.04, row * step + 0.04
            page.imshow(picture.numpy(), extent=(left, left + side, top + side, top), aspect="auto")
    return _save(figure, run.folder / MAPS, {_WEIGHTS: run.weights_sha256})


def drawn_from(file: Path) -> str | None:
    """SHA-256 of the weights that a picture was drawn with, None where there is no such picture or it holds more than we put into it."""
    try:
        with Image.open(file) as picture:
            return picture.info.get(_WEIGHTS) if picture.info.keys() <= {_WEIGHTS, "dpi"} else None
    except (OSError, ValueError, Image.DecompressionBombError):  # ValueError: of texts without end
        return None


def _curve(lines: list[dict], key: str, scale: float = 1) -> tuple[list[int], list[float]]:
    """Steps and values of what is logged under `key`, of finite ones."""
    points = [(line["step"], scale * line[key]) for line in lines if is_number(line.get(key))]
    return [step for step, _ in points], [value for _, value in points]


def _draw(axes: Axes, title: str, curves: dict[str, tuple[list[int], list[float]]]) -> None:
    """One panel. Curves whose labels begin alike, "k=20 T=0.1" and "k=20 T=0.07", often lie together: they share a colour."""
    families = list(dict.fromkeys(label.split()[0] for label in curves))
    drawn: dict[str, int] = {}
    for label, (steps, values) in curves.items():
        family = label.split()[0]
        colour, dashes = _LINES[families.index(family) % len(_LINES)], _DASHES[drawn.get(family, 0) % len(_DASHES)]
        drawn[family] = drawn.get(family, 0) + 1
        # A curve of few points would hardly be seen without marks, and one of a single point not at all.
        axes.plot(steps, values, dashes, color=colour, linewidth=1.4, marker="o" if len(steps) < 30 else None, markersize=3, label=label)
    axes.set_title(title, fontsize=9, color=_INK, loc="left")
    axes.set_xlabel("step", fontsize=8, color=_INK)
    axes.tick_params(labelsize=7, colors=_INK, length=2)
    axes.grid(color=_PALE, linewidth=0.4, alpha=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_PALE)


def _load(recipe: Recipe, split: str, device: torch.device) -> ImageSet:
    return load_images(
        recipe.dataset, split, image_column=recipe.image_column, label_column=recipe.label_column, canvas=recipe.canvas,
        resolution=required_resolution(Preprocessing(recipe.eval_resize, recipe.eval_crop), recipe.make_views().values()), device=device,
        broken_share=recipe.broken_share,
    )  # fmt: skip


def _bank_and_asked(recipe: Recipe, device: torch.device) -> tuple[ImageSet, ImageSet]:
    """Training images, and the images that pictures ask about: test images where there are labels, else the training images again."""
    bank = _load(recipe, recipe.train_split, device)
    tested = recipe.test_split and bank.labels is not None and len(bank.splits) > 1
    return bank, _load(recipe, recipe.test_split, device) if tested else bank


@torch.no_grad()
def _features(encoder: PreTrainedModel, images: ImageSet, positions: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Of a few images, (n, width) on the encoder's device."""
    device = next(encoder.parameters()).device
    parts = [preprocessing(batch.pixels, batch.sizes).to(device) for batch in images.batches([positions])]
    return torch.cat([features(encoder, part) for part in parts])


def _squares(images: ImageSet, positions: Tensor) -> list[Tensor]:
    """The middle square of each image, uint8 (side, side, 3)."""
    squares = []
    for batch in images.batches([positions]):
        for pixels, (height, width) in zip(batch.pixels.cpu(), batch.sizes.tolist(), strict=True):
            side = min(height, width)
            top, left = (height - side) // 2, (width - side) // 2
            squares.append(pixels[:, top : top + side, left : left + side].permute(1, 2, 0))
    return squares


def _class(images: ImageSet, position: int) -> str:
    """The name of the image's class, "" where it has no label."""
    label = -1 if images.labels is None else int(images.labels[position])
    if label < 0:
        return ""
    return one_line(images.label_names[label]) if images.label_names else f"class {label}"


def _page(among_themselves: bool, labelled: bool) -> tuple[Figure, Axes]:
    """An empty picture with its heading, and axes over all of it in inches from its upper left corner."""
    height = _HEAD + _QUERIES // _BLOCKS * _ROW
    figure = Figure(figsize=(_WIDTH, height), dpi=_DOTS)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, _WIDTH), ylim=(height, 0), autoscale_on=False)
    axes.set_axis_off()
    style = {"y": _HEAD / 2, "fontsize": 8, "va": "center"}
    for query in range(0, _QUERIES, _QUERIES // _BLOCKS):
        axes.text(_place(query, 0)[0], s="image" if among_themselves else "test image", color=_INK, **style)
        axes.text(_place(query, 1)[0], s="its nearest training images, the nearest first", color=_INK, **style)
    if labelled:
        right = _place(_QUERIES - 1, _NEAREST)[0] + _CELL
        axes.text(right - _LEGEND, s="■ same class", color=_RIGHT, ha="right", **style)
        axes.text(right, s="■ another", color=_WRONG, ha="right", **style)
    return figure, axes


def _place(query: int, rank: int) -> tuple[float, float]:
    """The upper left corner of a query (rank 0) or of one of its neighbours (1, 2, ...), in inches."""
    block, row = divmod(query, _QUERIES // _BLOCKS)
    return _EDGE + block * (_WIDTH + _GAP) / _BLOCKS + rank * _STEP + (_GAP / 2 if rank else 0), _HEAD + row * _ROW


def _show(page: Axes, place: tuple[float, float], pixels: Tensor, frame: str, name: str) -> None:
    left, top = place
    page.imshow(pixels.numpy(), extent=(left, left + _CELL, top + _CELL, top), aspect="auto")
    page.add_patch(Rectangle(place, _CELL, _CELL, fill=False, edgecolor=frame, linewidth=2.2))
    shown = name if len(name) <= _LETTERS else name[: _LETTERS - 1] + "…"
    style = {"fontsize": 6.5, "color": _INK, "ha": "center", "va": "top", "parse_math": False}  # a "$" is a "$"
    page.text(left + _CELL / 2, top + _CELL + 0.04, shown, **style)


def _save(figure: Figure, file: Path, texts: dict[str, str] | None = None) -> Path:
    """Puts the picture in its place when it is whole; without matplotlib's version in it, which would change its bytes."""
    FigureCanvasAgg(figure)
    with whole(file) as beside:
        figure.savefig(beside, format="png", metadata={"Software": None, **(texts or {})})
    return file
