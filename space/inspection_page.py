"""What a model makes of an image, as HTML: the encoder's input, its maps with their scales, and the nearest neighbours."""

from html import escape

from html_parts import figure, notice
from inspection import Inspection, Map


def inspection(found: Inspection, name: str | None = None) -> str:
    """name: a heading."""
    maps = figure(found.given, "What the encoder is given") + "".join(map(_map, found.maps))
    heading = f'<h3 class="name">{escape(name)}</h3>' if name else ""
    if not found.neighbours:
        return f'{heading}<div class="maps">{maps}</div>{notice(found.about[0].upper() + found.about[1:])}'
    neighbours = "".join(figure(one.picture, one.label, f"{one.cosine:.3f}") for one in found.neighbours)
    title = f"Nearest of {found.about}, with their classes and cosines"
    warning = f'<p class="notice far" role="status">{escape(found.warning)}</p>' if found.warning else ""
    return f'{heading}{warning}<h4>{escape(title)}</h4><div class="neighbours">{neighbours}</div><div class="maps">{maps}</div>'


def _map(shown: Map) -> str:
    scale = f'<div class="scale"><span>{escape(shown.low)}</span><i></i><span>{escape(shown.high)}</span></div>' if shown.high else ""
    return figure(shown.picture, shown.title, below=scale)
