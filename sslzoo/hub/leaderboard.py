"""The leaderboard: listed models become entries; those with malformed or duplicate cards are quarantined with a reason."""

from collections.abc import Iterable
from typing import NamedTuple

from sslzoo.errors import InputError

from .entry import Entry, read_entry
from .listing import ListedModel
from .markdown import one_line
from .validation import preview


class Quarantined(NamedTuple):
    """A model that is not shown, and why."""

    name: str
    reason: str


def read_entries(models: Iterable[ListedModel]) -> tuple[list[Entry], list[Quarantined]]:
    """The entries of the models with valid metadata, in the order given, and the other models with what is wrong.

    Imported weights, which no recipe trained, are in neither list. A card speaks for one repository: the one that it names and lies in.
    So a copy of someone's card is quarantined, and nothing that a card says can quarantine another model. Of several models of one
    name the oldest is kept.
    """
    valid, quarantined = [], []
    for model in models:
        try:
            entry = read_entry(model)
        except Exception as error:  # a malformed card never takes the board down
            reason = str(error) if isinstance(error, InputError) else f"the metadata cannot be read: {type(error).__name__}"
            name = one_line(model.name[:200]) if isinstance(model.name, str) else preview(model.name)
            quarantined.append(Quarantined(name, one_line(reason)))
        else:
            if entry is not None:
                valid.append(entry)
    oldest: dict[str, Entry] = {}
    for entry in sorted(valid, key=lambda entry: entry.created):
        oldest.setdefault(entry.name, entry)
    kept = []
    for entry in valid:
        if oldest[entry.name] is entry:
            kept.append(entry)
        else:
            quarantined.append(Quarantined(entry.name, f"an older model has the name {entry.name}"))
    return kept, quarantined
