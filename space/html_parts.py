"""Small pieces of HTML that several pages use. Every text is escaped here, whatever its source."""

import base64
import io
from html import escape
from urllib.parse import quote

from PIL import Image

from sslzoo.hub import Entry


def notice(text: str) -> str:
    return f'<p class="notice" role="status">{escape(text)}</p>'


def model_link(entry: Entry, text: str | None = None) -> str:
    """A link to the model's page in this Space, which `leaderboard.js` opens without loading the Space again."""
    return f'<a class="model" href="?model={quote(entry.name)}" data-model="{escape(entry.name)}">{escape(text or entry.name)}</a>'


def table(headings: tuple[str, ...], rows: list[tuple[str, ...]], numeric: set[int]) -> str:
    """numeric: indices of the columns of numbers."""
    classes = [' class="numeric"' if index in numeric else "" for index in range(len(headings))]
    head = "".join(f"<th{class_}>{escape(text)}</th>" for class_, text in zip(classes, headings, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{class_}>{escape(text)}</td>" for class_, text in zip(classes, row, strict=True)) + "</tr>" for row in rows
    )
    return f'<div class="wide"><table class="plain"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def figure(picture: Image.Image, title: str, subtitle: str = "", below: str = "") -> str:
    """A picture with its caption. below: HTML after the caption."""
    data = io.BytesIO()
    picture.save(data, "PNG")
    source = f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
    small = f"<small>{escape(subtitle)}</small>" if subtitle else ""
    return f'<figure><img src="{source}" alt="{escape(title)}"><figcaption>{escape(title)}{small}</figcaption>{below}</figure>'


def percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}"


def points(difference: float) -> str:
    """A difference of percentages, with its sign."""
    return f"{difference:+.1f}".replace("-", "−")
