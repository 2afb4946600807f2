"""A contact sheet: groups of similar images as one PNG."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.patches import Rectangle
from PIL import Image

from sslzoo.hub.pictures import DPI, INK, WIDTH, blank_page, save_picture

_COLUMNS = 8
# Inches.
_STEP, _CELL = WIDTH / _COLUMNS, WIDTH / _COLUMNS - 0.08
_HEADING, _ROW, _GAP = 0.3, _CELL + 0.38, 0.12
_MAX_LETTERS = 22  # of a name below a cell


class Cell(NamedTuple):
    """One image of a sheet. picture: see `thumbnail`. name: its last letters are shown. note: stands above the name."""

    picture: np.ndarray
    name: str
    note: str


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """The largest centred square of an image, uint8 (height, width, 3), no larger than a cell shows it."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    shown = min(side, round(_CELL * DPI))
    square = Image.fromarray(pixels[top : top + side, left : left + side])
    return np.asarray(square.resize((shown, shown), Image.Resampling.BICUBIC, reducing_gap=2.0))


def draw_contact_sheet(file: Path, heading: str, groups: Sequence[Sequence[Cell]]) -> None:
    """Draws each group from the left of a line of its own, in several lines where it is long; its first image is framed."""
    lines = sum(-(-len(group) // _COLUMNS) for group in groups)
    figure, page = blank_page(_HEADING + lines * _ROW + len(groups) * _GAP)
    page.text(0.04, _HEADING / 2, heading, fontsize=8, color=INK, va="center", parse_math=False)
    top = _HEADING
    for group in groups:
        for index, cell in enumerate(group):
            line, column = divmod(index, _COLUMNS)
            left, upper = column * _STEP + 0.04, top + line * _ROW
            page.imshow(cell.picture, extent=(left, left + _CELL, upper + _CELL, upper), aspect="auto")
            if index == 0:
                page.add_patch(Rectangle((left, upper), _CELL, _CELL, fill=False, edgecolor=INK, linewidth=2.2))
            name = cell.name if len(cell.name) <= _MAX_LETTERS else f"…{cell.name[1 - _MAX_LETTERS :]}"
            name = "".join(letter if letter.isprintable() else "?" for letter in name)
            style = {"fontsize": 6.5, "color": INK, "ha": "center", "va": "top", "parse_math": False}  # a "$" is a "$"
            page.text(left + _CELL / 2, upper + _CELL + 0.04, f"{cell.note}\n{name}", **style)
        top += -(-len(group) // _COLUMNS) * _ROW + _GAP
    save_picture(figure, file)
