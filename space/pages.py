"""Pieces of the page in HTML. Every text is escaped here, wherever it comes from."""

import base64
import io
from html import escape

from board import metric_name, setting_name
from PIL import Image
from try_it import Seen

from sslzoo.hub import Entry, Measurement, Quarantined


def notice(text: str) -> str:
    return f'<p class="notice" role="status">{escape(text)}</p>'


# Clicking a heading sorts by its column: numbers the largest first, then the other way round; what is missing stays last.
SORTING = """
element.addEventListener("click", (event) => {
  const head = event.target.closest("th");
  if (!head) return;
  const place = [...head.parentNode.children].indexOf(head), body = head.closest("table").tBodies[0];
  const numeric = head.classList.contains("numeric"), was = head.getAttribute("aria-sort");
  const down = was ? was === "ascending" : numeric;
  const value = (row) => row.children[place].dataset.value;
  const compare = (one, other) => (numeric ? one - other : one.localeCompare(other)) * (down ? -1 : 1);
  const order = (one, other) => (value(one) === "") - (value(other) === "") || compare(value(one), value(other));
  body.append(...[...body.rows].sort(order));
  for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
});
"""


def leaderboard(headings: list[str], rows: list[list]) -> str:
    """What `board.table` gives, as a table that `SORTING` sorts."""
    numeric = [all(row[place] is None or isinstance(row[place], (int, float)) for row in rows) for place in range(len(headings))]
    head = "".join(
        f'<th scope="col"{_kind(number)}><button type="button">{escape(text)}</button></th>'
        for text, number in zip(headings, numeric, strict=True)
    )
    body = "".join("<tr>" + "".join(map(_cell, row, numeric)) + "</tr>" for row in rows)
    return f'<div class="board"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(content: Entry | str | int | float | None, numeric: bool) -> str:
    if isinstance(content, Entry):
        return f'<td data-value="{escape(content.name)}" title="{escape(content.name)}">{_link(content)}</td>'
    value = "" if content is None else escape(str(content))
    shown = f"{content:,}" if isinstance(content, int) else _short(content) if isinstance(content, float) else value or "–"
    return f'<td data-value="{value}"{_kind(numeric)}>{shown}</td>'


def _kind(numeric: bool) -> str:
    return ' class="numeric"' if numeric else ""


def _short(number: float) -> str:
    return f"{number:,.2f}" if number >= 0.1 or not number else f"{number:.2g}"


def _link(entry: Entry) -> str:
    return f'<a href="{escape(entry.link)}" target="_blank" rel="noopener noreferrer">{escape(entry.name)}</a>'


def summary(entry: Entry) -> str:
    """What the model is, and its numbers with how they were measured."""
    facts = {
        "Method": entry.method, "Encoder": f"{entry.encoder}, {entry.image_size} px", "Data set": entry.dataset,
        "Training images": f"{entry.images:,}", "Epochs": f"{entry.epochs:,}", "Batch size": f"{entry.batch_size:,}",
        "Device-hours": f"{entry.device_hours:,.3g}",
        "Hardware": entry.hardware + (f", {entry.processes} processes" if entry.processes > 1 else ""),
        "Weights, SHA-256": f"{entry.weights_sha256[:16]}…",
    }  # fmt: skip
    listed = "".join(f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>" for key, value in facts.items())
    by = "" if entry.own else '<span class="badge">community, numbers as its card has them</span>'
    return f'<h3 class="name">{_link(entry)}{by}</h3><dl class="facts">{listed}</dl>{_numbers(entry)}'


def _numbers(entry: Entry) -> str:
    if not entry.measurements:
        return notice("No number was measured.")
    rows = []
    for number in entry.measurements:
        reference = entry.reference.get(number.metric) if number.dataset == entry.dataset else None
        epoch = "" if number.when == "last" else "best epoch" + ("" if number.epoch is None else f" ({number.epoch + 1})")
        rows.append((
            metric_name(number), setting_name(number.arguments), _percent(number.value), "" if reference is None else _percent(reference),
            epoch or "published weights", f"{number.dataset}, {number.split}",
            f"{_count(number.train_images)} / {_count(number.test_images)}", number.protocol, number.date or "", number.code or "",
        ))  # fmt: skip
    heads = ("Metric", "Setting", "%", "Reference", "Of", "Measured on", "Train / test images", "Protocol", "Date", "Code")
    return _table(heads, rows, numeric={2, 3})


def comparison(one: Entry, other: Entry) -> str:
    """Facts and numbers of two models side by side; a number stands in the row of its metric, protocol, setting, data set and split."""
    rows = [
        (what, str(first), str(second)) for what, first, second in (
            ("Method", one.method, other.method), ("Encoder", one.encoder, other.encoder), ("Data set", one.dataset, other.dataset),
            ("Epochs", one.epochs, other.epochs), ("Batch size", one.batch_size, other.batch_size),
            ("Device-hours", f"{one.device_hours:,.3g}", f"{other.device_hours:,.3g}"), ("Hardware", one.hardware, other.hardware),
        )
    ]  # fmt: skip
    sides = [{_measurement(number): number for number in entry.measurements if number.when == "last"} for entry in (one, other)]
    for key in dict.fromkeys([*sides[0], *sides[1]]):
        number = sides[0].get(key) or sides[1][key]
        setting = ", ".join(part for part in (setting_name(number.setting), number.protocol, f"{number.dataset} {number.split}") if part)
        rows.append((f"{metric_name(number)} ({setting})", *(_percent(side[key].value) if key in side else "–" for side in sides)))
    return _table(("", one.name, other.name), rows, numeric=set())


def _measurement(number: Measurement) -> tuple:
    return number.metric, number.protocol, number.setting, number.dataset, number.split


def seen(what: Seen, name: str | None = None) -> str:
    """What an encoder made of an image."""
    pictures = [("What the encoder is given", what.given), *[(title, picture) for title, picture in what.maps]]
    maps = "".join(_figure(picture, title, "") for title, picture in pictures)
    near = "".join(_figure(one.picture, one.label, f"{one.cosine:.3f}") for one in what.neighbours)
    head = f'<h3 class="name">{escape(name)}</h3>' if name else ""
    if not near:
        return f'{head}<div class="maps">{maps}</div>{notice(what.about[0].upper() + what.about[1:])}'
    title = f"Nearest of {what.about}, with their classes and cosines"
    return f'{head}<div class="maps">{maps}</div><h4>{escape(title)}</h4><div class="neighbours">{near}</div>'


def quarantine(models: list[Quarantined]) -> str:
    rows = [(model.name, model.reason) for model in models]
    said = "Tagged <code>sslzoo</code> but not shown: the metadata is not what sslzoo writes, or somebody else's."
    return f"<p>{said}</p>{_table(('Model', 'Reason'), rows, numeric=set())}"


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]], numeric: set[int]) -> str:
    kinds = [_kind(place in numeric) for place in range(len(heads))]
    head = "".join(f"<th{kind}>{escape(text)}</th>" for kind, text in zip(kinds, heads, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{escape(text)}</td>" for kind, text in zip(kinds, row, strict=True)) + "</tr>" for row in rows
    )
    return f'<div class="wide"><table class="plain"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _figure(picture: Image.Image, title: str, below: str) -> str:
    data = io.BytesIO()
    picture.save(data, "PNG")
    source = f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
    small = f"<small>{escape(below)}</small>" if below else ""
    return f'<figure><img src="{source}" alt="{escape(title)}"><figcaption>{escape(title)}{small}</figcaption></figure>'


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}"


def _count(images: int | None) -> str:
    return "?" if images is None else f"{images:,}"
