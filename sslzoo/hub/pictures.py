"""What the pictures of a card share: file names, size, colours, and the digest of the weights inside the PNG."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from sslzoo.files import atomic_write

CURVES = "curves.png"
NEIGHBOURS = "neighbours.png"
MAPS = "maps.png"
QUERIES, NEAREST = 8, 6  # images, and the nearest neighbours of each
IMAGES_SHOWN = {NEIGHBOURS: QUERIES * (1 + NEAREST), MAPS: QUERIES}  # at most
WIDTH = 10.0  # inches
DPI = 160  # 1600 px, sharp at the width of a card
INK = "#333333"  # of texts and frames
_WEIGHTS = "Weights"  # the key of the digest among the PNG's texts


def blank_page(height: float) -> tuple[Figure, Axes]:
    """A figure `WIDTH` wide, and axes over all of it in inches from its upper left corner. height: inches."""
    figure = Figure(figsize=(WIDTH, height), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(height, 0), autoscale_on=False)
    axes.set_axis_off()
    return figure, axes


def save_picture(figure: Figure, file: Path, weights_sha256: str | None = None) -> Path:
    """Writes the PNG in full or not at all. The same figure gives the same bytes: matplotlib's version is left out.

    weights_sha256: of the weights that it was drawn with; None for a picture that does not depend on them.
    """
    FigureCanvasAgg(figure)
    texts = {_WEIGHTS: weights_sha256} if weights_sha256 else {}
    with atomic_write(file) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None, **texts})
    return file


def drawn_with(file: Path) -> str | None:
    """SHA-256 of the weights that a picture was drawn with; None for a missing file or one that holds more than we write."""
    try:
        with Image.open(file) as picture:
            return picture.info.get(_WEIGHTS) if picture.info.keys() <= {_WEIGHTS, "dpi"} else None
    except (OSError, ValueError, Image.DecompressionBombError):  # ValueError: texts beyond Pillow's limit
        return None
