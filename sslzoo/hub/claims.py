"""What a model card says, held against the card that the folder gives now."""

from collections import Counter
from collections.abc import Iterator
from itertools import islice, zip_longest
from typing import Any, NamedTuple

from sslzoo.run import CARD, Run

from .card import card_text, is_imported
from .front_matter import parsed, read_card, split_card
from .leaderboard import MODEL_NAME, OWN_NAMESPACE
from .markdown import one_line
from .pictures import MAPS, NEIGHBOURS

_ABSENT = "(not there)"
_MADE = "as the folder gives it"
_MOST_LINES = 50  # of a text that are named
_PARTS = {"sslzoo": "card", "model-index": "model-index"}


class Claim(NamedTuple):
    """A place in the card, what it says there, and what results.json, recipe.yaml and the weights beside it give."""

    what: str
    card: Any
    results: Any


def card_claims(run: Run, repository: str | None = None) -> list[Claim]:
    """Every value of the card's metadata and every line of its text that is not what the folder gives; of a part without any, one claim.

    repository: where the card lies on the Hub; None: in a folder on this machine, from where it may go into any namespace.
    Which pictures it shows is taken from the card, and prose counts too: a sentence that was written into it by hand is told.
    Raises `InputError` for a card that cannot be read, and for a folder from which none can be made.
    """
    metadata, body = read_card(run.folder / CARD)
    said = parsed(metadata)
    pictures = {name: f"]({name})" in body for name in (NEIGHBOURS, MAPS)}
    made, made_body = split_card(card_text(run, _repository(run, said, repository), pictures))
    wanted = parsed(made)
    claims = []
    for part in ("card", "model-index", "metadata"):
        held, gives = (dict(_leaves(_part(values, part))) for values in (said, wanted))
        wrong = [
            Claim(f"{part}: {one_line(key)}", _shown(held.get(key, _ABSENT)), _shown(gives.get(key, _ABSENT)))
            for key in {**gives, **held} if not _same(held.get(key, _ABSENT), gives.get(key, _ABSENT))
        ]  # fmt: skip
        claims += wrong or [Claim(f"{part}: {len(gives)} values", _MADE, _MADE)]
    return claims + [*_of_text(body.splitlines(), made_body.splitlines())]


def _repository(run: Run, said: Any, stands_at: str | None) -> str:
    """What the card must name. Of a folder on this machine the namespace is not known: it is taken from the card."""
    block = said.get("sslzoo") if isinstance(said, dict) else None
    named = block.get("repository") if isinstance(block, dict) else None
    if not isinstance(named, str) or not MODEL_NAME.fullmatch(named):
        named = ""
    if stands_at is not None:
        return named if named.lower() == stands_at.lower() else stands_at
    own = named.partition("/")[2] or run.folder.absolute().name if is_imported(run) else run.recipe.name
    return f"{named.partition('/')[0] or OWN_NAMESPACE}/{own}"


def _part(values: Any, part: str) -> Any:
    """Of the metadata the block of sslzoo, the model-index, or all the rest."""
    if not isinstance(values, dict):
        return values if part == "metadata" else _ABSENT
    if part == "metadata":
        return {key: value for key, value in values.items() if key not in _PARTS}
    return values.get({name: key for key, name in _PARTS.items()}[part], _ABSENT)


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that holds no others, by the way to it: "numbers[3].arguments.k"."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list) and value:
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{place}[{index}]")
    else:
        yield place or "all of it", value if isinstance(value, (str, int, float, dict, list, type(None))) else str(value)


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and one == other


def _shown(value: Any) -> Any:
    """A value that can be printed and written as JSON, two different ones still different."""
    if isinstance(value, str) and (len(value) > 200 or not value.isprintable()):
        return ascii(value[:200])
    return str(value)[:200] if isinstance(value, int) and abs(value) >= 10**15 else value


def _of_text(said: list[str], wanted: list[str]) -> Iterator[Claim]:
    """Lines that one of the two lacks, those of tables first; the first of each many."""
    if said == wanted:
        yield Claim(f"table and text: {len(wanted)} lines", _MADE, _MADE)
        return
    extra, missing = Counter(said) - Counter(wanted), Counter(wanted) - Counter(said)
    if not extra and not missing:
        yield Claim("text: the order of its lines", "another", _MADE)
    for part in ("table", "text"):
        lines = ([line for line in some.elements() if line.startswith("|") == (part == "table")] for some in (extra, missing))
        for found, should in islice(zip_longest(*lines, fillvalue=_ABSENT), _MOST_LINES):
            yield Claim(f"{part}: {one_line(found if should is _ABSENT else should)}", _shown(found), _shown(should))
