"""A model's page as HTML: what it is, its headline numbers, its relatives, and everything that is folded away."""

from html import escape

from html_parts import model_link, notice, percent, points, table
from method_notes import METHOD_NOTES
from table import Column, Row, Table, duration, heading, metric_name, setting_name

from sslzoo.hub import Entry

_RELATIVES = 4  # of each kind


def headline(entry: Entry, tables: list[Table]) -> str:
    """Name, idea and paper, and the leaderboard's numbers of the model, large. tables: of all models."""
    badge = "" if entry.own else '<span class="badge">community, numbers as its card has them</span>'
    note = METHOD_NOTES.get(entry.method)
    idea = f"<p>{escape(note.idea)} {_paper(entry)}</p>" if note else ""
    hub = f'<a href="{escape(entry.link)}" target="_blank" rel="noopener noreferrer">{escape(entry.name)}</a>'
    return f'<h3 class="name">{hub}{badge}</h3>{idea}<div class="tiles">{_tiles(entry, tables)}</div>'


def _paper(entry: Entry) -> str:
    paper = METHOD_NOTES[entry.method].paper
    link = f'<a href="{escape(paper.url)}" target="_blank" rel="noopener noreferrer">{escape(paper.title)}</a>'
    return f"Paper: {link}, {escape(paper.authors)}, {paper.year}."


def _tiles(entry: Entry, tables: list[Table]) -> str:
    tiles = []
    for found in tables:
        for place, row in enumerate(found.rows, 1):
            if row.entry != entry:
                continue
            for index, column in enumerate(found.columns):
                if row.values[index] is None:
                    continue
                below = f"on {found.benchmark}"
                if not index:
                    below = f"{place} of {len(found.rows)} {below}"
                    below += "" if row.difference is None else f", {points(row.difference)} against the page's {row.reference:.1f}"
                tiles.append(_tile(_title(column, found.columns), f"{row.values[index]:.1f} %", below))
    tiles.append(_tile("Training time", duration(entry.device_hours * 3600), entry.hardware))
    return "".join(tiles)


def _title(column: Column, all_columns: list[Column]) -> str:
    """ "kNN top-1, k = 200" """
    name, k = heading(column, all_columns), dict(column.setting).get("k")
    return f"{name} top-1" if k is None or "k=" in name else f"{name} top-1, k = {k}"


def _tile(title: str, number: str, below: str) -> str:
    return f"<div><span>{escape(title)}</span><b>{escape(number)}</b><small>{escape(below)}</small></div>"


def loading_code(entry: Entry) -> str:
    """The lines that load the model."""
    lines = ["from transformers import AutoImageProcessor, AutoModel"]
    if entry.encoder.startswith("res") and entry.image_size <= 64:
        lines.insert(0, "import sslzoo  # ResNets for small images have a stem that transformers does not know")
    lines.append(f'processor = AutoImageProcessor.from_pretrained("{entry.name}")')
    lines.append(f'model = AutoModel.from_pretrained("{entry.name}")')
    return "\n".join(lines)


def facts(entry: Entry) -> str:
    """How the model was trained."""
    shown = {
        "Method": entry.method, "Encoder": f"{entry.encoder}, {entry.image_size} px", "Starts from": entry.start,
        "Licence": entry.license or "not said", "Data set": entry.dataset, "Training images": f"{entry.images:,}",
        "Epochs": f"{entry.epochs:,}", "Batch size": f"{entry.batch_size:,}", "Training time": duration(entry.device_hours * 3600),
        "Hardware": entry.hardware + (f", {entry.processes} processes" if entry.processes > 1 else ""),
        "Weights, SHA-256": f"{entry.weights_sha256[:16]}…",
    }  # fmt: skip
    items = "".join(f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>" for key, value in shown.items())
    return f'<dl class="facts">{items}</dl>'


def measurements(entry: Entry) -> str:
    """Every number with its setting and provenance."""
    if not entry.measurements:
        return notice("No number was measured.")
    rows = []
    for measurement in entry.measurements:
        reference = entry.reference.get(measurement.metric) if measurement.dataset == entry.dataset else None
        epoch = "" if measurement.when == "last" else "best epoch" + ("" if measurement.epoch is None else f" ({measurement.epoch + 1})")
        rows.append((
            metric_name(measurement), setting_name(measurement.arguments), percent(measurement.value),
            "" if reference is None else percent(reference), epoch or "published weights", f"{measurement.dataset}, {measurement.split}",
            f"{_count(measurement.train_images)} / {_count(measurement.test_images)}", measurement.protocol, measurement.date or "",
            measurement.code or "",
        ))  # fmt: skip
    headings = ("Metric", "Setting", "%", "Reference", "Of", "Measured on", "Train / test images", "Protocol", "Date", "Code")
    return table(headings, rows, numeric={2, 3})


def relatives(entry: Entry, tables: list[Table]) -> str:
    """Links to the nearest other models: of the same method, and of the same data set with the most similar accuracy."""
    rows = [(found, index, row) for found in tables for index, row in enumerate(found.rows)]
    same_method = [(found, row) for found, _, row in rows if row.entry.method == entry.method and row.entry != entry]
    places = [(found, index) for found, index, row in rows if row.entry == entry]
    same_data = []
    for found, place in places:
        near = sorted(range(len(found.rows)), key=lambda index, place=place: (abs(index - place), index))
        same_data += [(found, found.rows[index]) for index in sorted(near[1 : _RELATIVES + 1])]
    groups = ((f"Also by {entry.method}", same_method), (f"Next to it on {entry.dataset}", same_data))
    return "".join(_links(title, pairs[:_RELATIVES]) for title, pairs in groups if pairs)


def _links(title: str, pairs: list[tuple[Table, Row]]) -> str:
    items = "".join(
        f"<li>{model_link(row.entry)}<small>{escape(found.benchmark)}{_first_value(row)}</small></li>" for found, row in pairs
    )  # fmt: skip
    return f'<div class="relatives"><h4>{escape(title)}</h4><ul>{items}</ul></div>'


def _first_value(row: Row) -> str:
    return f", {row.values[0]:.1f} %" if row.values and row.values[0] is not None else ""


def _count(images: int | None) -> str:
    return "?" if images is None else f"{images:,}"
