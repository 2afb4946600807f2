"""The page's contents as HTML. Every text is escaped here, whatever its source."""

import base64
import io
from html import escape

from inspector import Inspection
from PIL import Image
from table import metric_name, setting_name

from sslzoo.hub import Entry, Measurement, Quarantined


def notice(text: str) -> str:
    return f'<p class="notice" role="status">{escape(text)}</p>'


# Clicking a heading sorts by its column: numbers in descending order, then reversed; missing values stay last.
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
    """Headings and rows of `table.make_table`, as a table that `SORTING` sorts."""
    numeric = [all(row[index] is None or isinstance(row[index], (int, float)) for row in rows) for index in range(len(headings))]
    head = "".join(
        f'<th scope="col"{_numeric_class(is_numeric)}><button type="button">{escape(text)}</button></th>'
        for text, is_numeric in zip(headings, numeric, strict=True)
    )
    body = "".join("<tr>" + "".join(map(_cell, row, numeric)) + "</tr>" for row in rows)
    return f'<div class="board"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(content: Entry | str | int | float | None, numeric: bool) -> str:
    if isinstance(content, Entry):
        return f'<td data-value="{escape(content.name)}" title="{escape(content.name)}">{_link(content)}</td>'
    value = "" if content is None else escape(str(content))
    text = f"{content:,}" if isinstance(content, int) else _short(content) if isinstance(content, float) else value or "–"
    return f'<td data-value="{value}"{_numeric_class(numeric)}>{text}</td>'


def _numeric_class(numeric: bool) -> str:
    return ' class="numeric"' if numeric else ""


def _short(number: float) -> str:
    return f"{number:,.2f}" if number >= 0.1 or not number else f"{number:.2g}"


def _link(entry: Entry) -> str:
    return f'<a href="{escape(entry.link)}" target="_blank" rel="noopener noreferrer">{escape(entry.name)}</a>'


def summary(entry: Entry) -> str:
    """The model's facts, and its measurements with their settings and provenance."""
    facts = {
        "Method": entry.method, "Encoder": f"{entry.encoder}, {entry.image_size} px", "Starts from": entry.start,
        "Data set": entry.dataset,
        "Training images": f"{entry.images:,}", "Epochs": f"{entry.epochs:,}", "Batch size": f"{entry.batch_size:,}",
        "Device-hours": f"{entry.device_hours:,.3g}",
        "Hardware": entry.hardware + (f", {entry.processes} processes" if entry.processes > 1 else ""),
        "Weights, SHA-256": f"{entry.weights_sha256[:16]}…",
    }  # fmt: skip
    items = "".join(f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>" for key, value in facts.items())
    badge = "" if entry.own else '<span class="badge">community, numbers as its card has them</span>'
    return f'<h3 class="name">{_link(entry)}{badge}</h3><dl class="facts">{items}</dl>{_measurements(entry)}'


def _measurements(entry: Entry) -> str:
    if not entry.measurements:
        return notice("No number was measured.")
    rows = []
    for measurement in entry.measurements:
        reference = entry.reference.get(measurement.metric) if measurement.dataset == entry.dataset else None
        epoch = "" if measurement.when == "last" else "best epoch" + ("" if measurement.epoch is None else f" ({measurement.epoch + 1})")
        rows.append((
            metric_name(measurement), setting_name(measurement.arguments), _percent(measurement.value),
            "" if reference is None else _percent(reference), epoch or "published weights", f"{measurement.dataset}, {measurement.split}",
            f"{_count(measurement.train_images)} / {_count(measurement.test_images)}", measurement.protocol, measurement.date or "",
            measurement.code or "",
        ))  # fmt: skip
    headings = ("Metric", "Setting", "%", "Reference", "Of", "Measured on", "Train / test images", "Protocol", "Date", "Code")
    return _table(headings, rows, numeric={2, 3})


def comparison(one: Entry, other: Entry) -> str:
    """Facts and measurements of two models side by side, one row per metric, protocol, setting, data set and split."""
    rows = [
        (what, str(first), str(second)) for what, first, second in (
            ("Method", one.method, other.method), ("Encoder", one.encoder, other.encoder), ("Starts from", one.start, other.start),
            ("Data set", one.dataset, other.dataset),
            ("Epochs", one.epochs, other.epochs), ("Batch size", one.batch_size, other.batch_size),
            ("Device-hours", f"{one.device_hours:,.3g}", f"{other.device_hours:,.3g}"), ("Hardware", one.hardware, other.hardware),
        )
    ]  # fmt: skip
    sides = [{_comparison_key(found): found for found in entry.measurements if found.when == "last"} for entry in (one, other)]
    for key in dict.fromkeys([*sides[0], *sides[1]]):
        found = sides[0].get(key) or sides[1][key]
        setting = ", ".join(part for part in (setting_name(found.setting), found.protocol, f"{found.dataset} {found.split}") if part)
        rows.append((f"{metric_name(found)} ({setting})", *(_percent(side[key].value) if key in side else "–" for side in sides)))
    return _table(("", one.name, other.name), rows, numeric=set())


def _comparison_key(measurement: Measurement) -> tuple:
    return measurement.metric, measurement.protocol, measurement.setting, measurement.dataset, measurement.split


def inspection(found: Inspection, name: str | None = None) -> str:
    """The encoder's input, its maps, and the nearest neighbours of an image. name: a heading."""
    pictures = [("What the encoder is given", found.given), *found.maps]
    maps = "".join(_figure(picture, title, "") for title, picture in pictures)
    neighbours = "".join(_figure(one.picture, one.label, f"{one.cosine:.3f}") for one in found.neighbours)
    heading = f'<h3 class="name">{escape(name)}</h3>' if name else ""
    if not neighbours:
        return f'{heading}<div class="maps">{maps}</div>{notice(found.about[0].upper() + found.about[1:])}'
    title = f"Nearest of {found.about}, with their classes and cosines"
    return f'{heading}<div class="maps">{maps}</div><h4>{escape(title)}</h4><div class="neighbours">{neighbours}</div>'


def quarantine(models: list[Quarantined]) -> str:
    rows = [(model.name, model.reason) for model in models]
    text = "Tagged <code>sslzoo</code> but not shown: the metadata is not what sslzoo writes, or belongs to another model."
    return f"<p>{text}</p>{_table(('Model', 'Reason'), rows, numeric=set())}"


def _table(headings: tuple[str, ...], rows: list[tuple[str, ...]], numeric: set[int]) -> str:
    """numeric: indices of the columns of numbers."""
    classes = [_numeric_class(index in numeric) for index in range(len(headings))]
    head = "".join(f"<th{class_}>{escape(text)}</th>" for class_, text in zip(classes, headings, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{class_}>{escape(text)}</td>" for class_, text in zip(classes, row, strict=True)) + "</tr>" for row in rows
    )
    return f'<div class="wide"><table class="plain"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _figure(picture: Image.Image, title: str, subtitle: str) -> str:
    data = io.BytesIO()
    picture.save(data, "PNG")
    source = f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
    small = f"<small>{escape(subtitle)}</small>" if subtitle else ""
    return f'<figure><img src="{source}" alt="{escape(title)}"><figcaption>{escape(title)}{small}</figcaption></figure>'


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}"


def _count(images: int | None) -> str:
    return "?" if images is None else f"{images:,}"
