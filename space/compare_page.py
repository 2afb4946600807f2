"""Two models side by side, as HTML: their facts, and their numbers with the winner of each marked."""

from html import escape

from html_parts import percent
from table import duration, metric_name, setting_name

from sslzoo.hub import Entry, Measurement


def comparison(one: Entry, other: Entry) -> str:
    """One row per fact, then one per metric, protocol, setting, data set and split; the larger number of a row is marked."""
    rows = []
    sides = [{_key(found): found for found in entry.measurements if found.when == "last"} for entry in (one, other)]
    for key in dict.fromkeys([*sides[0], *sides[1]]):
        found = sides[0].get(key) or sides[1][key]
        setting = ", ".join(part for part in (setting_name(found.setting), found.protocol, f"{found.dataset} {found.split}") if part)
        values = [side[key].value if key in side else None for side in sides]
        first, second = values
        wins = (False, False) if first is None or second is None else (first > second, second > first)
        cells = map(_value, values, wins)
        rows.append(f'<tr><td>{escape(metric_name(found))}<small class="setting">{escape(setting)}</small></td>{"".join(cells)}</tr>')
    for what, first, second in (
        ("Method", one.method, other.method), ("Encoder", one.encoder, other.encoder), ("Starts from", one.start, other.start),
        ("Data set", one.dataset, other.dataset), ("Epochs", f"{one.epochs:,}", f"{other.epochs:,}"),
        ("Batch size", f"{one.batch_size:,}", f"{other.batch_size:,}"),
        ("Training time", *(duration(entry.device_hours * 3600) for entry in (one, other))),
        ("Hardware", one.hardware, other.hardware),
    ):  # fmt: skip
        rows.append(f"<tr><td>{what}</td><td>{escape(first)}</td><td>{escape(second)}</td></tr>")
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("", one.name, other.name))
    body = "".join(rows)
    return f'<div class="wide"><table class="plain versus"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _value(value: float | None, wins: bool) -> str:
    if value is None:
        return "<td>–</td>"
    return f'<td class="wins">{percent(value)}<span> best</span></td>' if wins else f"<td>{percent(value)}</td>"


def _key(measurement: Measurement) -> tuple:
    return measurement.metric, measurement.protocol, measurement.setting, measurement.dataset, measurement.split
