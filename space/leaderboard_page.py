"""The leaderboard as HTML: a table for each data set, with bars in the cells, that `leaderboard.js` sorts."""

from html import escape

from html_parts import model_link, notice, points, table
from method_notes import METHOD_NOTES
from table import Row, Table, duration, heading

from sslzoo.hub import Quarantined

FEW = 3  # models; fewer make a table of cost, not a plot


def leaderboard(tables: list[Table]) -> str:
    """The tables, and an element that `leaderboard.js` watches for: who sees it has come to the end of them."""
    return "".join(map(_section, tables)) + '<div class="end"></div>'


def _section(found: Table) -> str:
    """Columns that no row of this data set fills are left out."""
    rows = found.rows
    has_reference = any(row.difference is not None for row in rows)
    shows_start = any(row.entry.start != "random weights" for row in rows)
    shows_downloads = any(row.entry.downloads is not None for row in rows)
    headings = [("Model", "")]
    for index, column in enumerate(found.columns):
        headings.append((heading(column, found.columns), "numeric"))
        if not index and has_reference:
            headings.append(("vs page", "numeric"))
    headings += [("Method", "extra"), ("Encoder", "extra")] + [("Starts from", "extra")] * shows_start
    headings += [("Epochs", "numeric extra"), ("Time", "numeric")] + [("Downloads", "numeric extra")] * shows_downloads
    head = "".join(
        f'<th scope="col" class="{kind}"{_sorted(index, found)}><button type="button">{escape(text)}</button></th>'
        for index, (text, kind) in enumerate(headings)
    )
    body = "".join(f"<tr>{_row(row, has_reference, shows_start, shows_downloads)}</tr>" for row in rows)
    numbers = sum(kind == "numeric" for _, kind in headings)  # columns that a phone shows too
    count = f"{len(rows)} model" + "s" * (len(rows) != 1)
    return (
        f'<section><h3>{escape(found.benchmark)}<small>{count}</small></h3><div class="edge"><div class="board">'
        f'<table data-benchmark="{escape(found.benchmark)}" style="--numbers: {numbers}">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        "</div></div></section>"
    )


def _sorted(index: int, found: Table) -> str:
    return ' aria-sort="descending"' if index == 1 and found.columns else ""


def _row(row: Row, has_reference: bool, shows_start: bool, shows_downloads: bool) -> str:
    entry, note = row.entry, METHOD_NOTES.get(row.entry.method)
    cells = [f'<td data-value="{escape(entry.name)}" title="{escape(entry.name)}">{_name(row)}</td>']
    for index, value in enumerate(row.values):
        cells.append(_bar(value))
        if not index and has_reference:
            cells.append(_difference(row))
    hint = f' title="{escape(note.idea)}"' if note else ""
    cells.append(f'<td class="extra" data-value="{escape(entry.method)}"{hint}><span class="hint">{escape(entry.method)}</span></td>')
    cells.append(f'<td class="extra" data-value="{escape(entry.encoder)}">{escape(entry.encoder)}</td>')
    if shows_start:
        license_ = f"<small>{escape(entry.license)}</small>" if entry.license and entry.start != "random weights" else ""
        cells.append(f'<td class="extra" data-value="{escape(entry.start)}">{escape(entry.start)}{license_}</td>')
    seconds = entry.device_hours * 3600
    cells.append(f'<td class="numeric extra" data-value="{entry.epochs}">{entry.epochs:,}</td>')
    cells.append(f'<td class="numeric" data-value="{seconds:g}" title="{escape(entry.hardware)}">{duration(seconds)}</td>')
    if shows_downloads:
        value = "" if entry.downloads is None else entry.downloads
        cells.append(f'<td class="numeric extra" data-value="{value}">{"–" if value == "" else f"{value:,}"}</td>')
    return "".join(cells)


def _name(row: Row) -> str:
    """The project's own models without their namespace, the community's with it."""
    return model_link(row.entry, row.entry.name.partition("/")[2] if row.entry.own else row.entry.name)


def _bar(value: float | None) -> str:
    """A value in percent over a bar of that length."""
    if value is None:
        return '<td class="numeric" data-value="">–</td>'
    return f'<td class="numeric bar" data-value="{value:g}" style="--value: {value:.1f}%">{value:.1f}</td>'


def _difference(row: Row) -> str:
    """Our number above or below the page's, in percentage points."""
    if row.difference is None:
        return '<td class="numeric" data-value="">–</td>'
    kind, reference = "better" if row.difference >= 0 else "worse", f"the page has {row.reference:.2f}"
    return f'<td class="numeric {kind}" data-value="{row.difference:g}" title="{reference}">{points(row.difference)}</td>'


def few_models(tables: list[Table]) -> str:
    """Accuracy and cost of data sets of too few models for a plot."""
    rows = [
        (found.benchmark, row.entry.name, f"{row.values[0]:.1f}", duration(row.entry.device_hours * 3600))
        for found in tables if found.columns and len(found.rows) < FEW for row in found.rows if row.values[0] is not None
    ]  # fmt: skip
    if not rows:
        return ""
    title = "<h3>Accuracy and time where there are too few models to plot</h3>"
    return title + table(("Data set", "Model", "%", "Time"), rows, {2, 3})


def quarantine(models: list[Quarantined]) -> str:
    text = "Tagged “sslzoo” but not shown: the metadata is not what sslzoo writes, or belongs to another model."
    return notice(text) + table(("Model", "Reason"), [(model.name, model.reason) for model in models], numeric=set())
