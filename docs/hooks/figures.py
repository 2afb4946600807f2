"""Figures of methods: rows of boxes, which figures.yaml names, that end in a loss. Colours are those of the page, light or dark."""

import textwrap
from html import escape
from pathlib import Path

import yaml

FIGURES = yaml.safe_load((Path(__file__).parent / "figures.yaml").read_text(encoding="utf-8"))
NOTES = {"trained": "same weights", "stopped": "same weights", "average": "moving average", "frozen": "", "target": "", "memory": ""}
WIDTH, HEIGHT, GAP, ROW = 112, 46, 26, 92  # px: of a box, between boxes, and from row to row


def draw(method: str, label: str) -> str:
    """The figure of a method as an SVG element, which `label` describes to those who do not see it; empty where there is none."""
    figure = FIGURES.get(method)
    if figure is None:
        return ""
    rows = [(kind, row) for kind in NOTES if kind in figure for row in _listed(figure[kind])]
    columns = max(len(row.split(" > ")) for _, row in rows)
    x, y = columns * (WIDTH + GAP), (len(rows) - 1) * ROW / 2
    parts = [_row(kind, row, columns, number * ROW, y) for number, (kind, row) in enumerate(rows)]
    parts += [_note(kind, (number - 0.5) * ROW + HEIGHT / 2) for number, (kind, _) in enumerate(rows) if number and NOTES[kind]]
    parts.append(_box("loss", figure["loss"], x + GAP, y))
    width, height = x + GAP + WIDTH + 4, (len(rows) - 1) * ROW + HEIGHT + 4
    head = f'<svg width="{width}" viewBox="-2 -2 {width} {height}" role="img" aria-label="{escape(label)}">'
    return f'<div class="figure">{head}{"".join(parts)}</svg></div>'


def _listed(rows: str | list[str]) -> list[str]:
    return [rows] if isinstance(rows, str) else rows


def _row(kind: str, row: str, columns: int, y: float, loss_y: float) -> str:
    """Boxes from left to right and an arrow to the loss, which is struck through where no gradient flows back."""
    names, step = row.split(" > "), WIDTH + GAP
    first = columns - 1 if kind == "memory" else 0
    middle, end = y + HEIGHT / 2, (first + len(names)) * step - GAP
    parts = []
    for index, name in enumerate(names):
        x = (first + index) * step
        parts.append(_box(kind if index or kind == "memory" else "data", name, x, y))
        if index:
            parts.append(f'<path class="arrow" d="M{x - GAP} {middle}h{GAP - 7}"/>{_head(x, middle)}')
    target = loss_y + HEIGHT / 2 + (middle - loss_y - HEIGHT / 2) * 0.15
    turn = columns * step + GAP / 2 - 8
    parts.append(f'<path class="arrow" d="M{end} {middle}H{turn}V{target}H{columns * step + GAP - 7}"/>')
    parts.append(_head(columns * step + GAP, target))
    if kind in ("stopped", "average", "frozen"):
        parts.append(f'<path class="arrow" d="M{end + 8} {middle + 7}l5 -14m3 14l5 -14"/>')
    return "".join(parts)


def _note(kind: str, y: float) -> str:
    """What ties the encoder of a row to that of the row above."""
    x, length = WIDTH * 1.5 + GAP, ROW - HEIGHT
    tie = f'<path class="tie" d="M{x} {y - length / 2}v{length - (6 if kind == "average" else 0)}"/>'
    head = f'<path class="head" d="M{x - 4} {y + length / 2 - 7}l4 7l4 -7z"/>' if kind == "average" else ""
    return f'{tie}{head}<text class="note" x="{x + 8}" y="{y + 4}">{NOTES[kind]}</text>'


def _head(x: float, y: float) -> str:
    return f'<path class="head" d="M{x - 7} {y - 4}l7 4l-7 4z"/>'


def _box(kind: str, text: str, x: float, y: float) -> str:
    lines = textwrap.wrap(text, 18, break_on_hyphens=False)
    top = y + HEIGHT / 2 + 4 - 6.5 * (len(lines) - 1)
    spans = "".join(f'<tspan x="{x + WIDTH / 2}" y="{top + 13 * index}">{escape(line)}</tspan>' for index, line in enumerate(lines))
    return f'<rect class="{kind}" x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="6"/><text>{spans}</text>'
