"""Checks a model card against its run folder: every value of its metadata and every line of its text."""

from collections import Counter
from collections.abc import Iterator
from itertools import islice, zip_longest
from typing import Any, NamedTuple

from sslzoo.run import CARD, Run

from .card import card_text
from .front_matter import parse_front_matter, read_card, split_card
from .listing import OWN_NAMESPACE, REPO_ID
from .markdown import one_line
from .pictures import MAPS, NEIGHBOURS
from .results_validation import is_imported

_MISSING = "(not there)"
_MATCHES = "as the folder gives it"
_MAX_LINES = 50  # differing lines of a text that are reported
_BLOCKS = {"card": "sslzoo", "model-index": "model-index"}  # part -> its key in the metadata


class CardComparison(NamedTuple):
    """A place in the card, what the card says there, and what results.json, recipe.yaml and the weights give."""

    what: str
    found: Any
    expected: Any


def check_card(run: Run, repository: str | None = None) -> list[CardComparison]:
    """Every value and line of the card that differs from what the folder gives; for a part without differences, one equal comparison.

    repository: where the card lies on the Hub; None: in a folder on this machine, which may be published into any namespace.
    Which pictures the card shows is taken from the card. Prose is compared too: a sentence written into the card by hand is reported.
    Raises `InputError` for a card that cannot be read, and for a folder from which no card can be made.
    """
    front_matter, body = read_card(run.folder / CARD)
    found = parse_front_matter(front_matter)
    pictures = {name: f"]({name})" in body for name in (NEIGHBOURS, MAPS)}
    expected_front_matter, expected_body = split_card(card_text(run, _expected_repository(run, found, repository), pictures))
    expected = parse_front_matter(expected_front_matter)
    comparisons = []
    for part in ("card", "model-index", "metadata"):
        found_leaves, expected_leaves = (dict(_leaves(_part(values, part))) for values in (found, expected))
        differences = [
            CardComparison(f"{part}: {one_line(key)}", _printable(found_leaves.get(key, _MISSING)),
                           _printable(expected_leaves.get(key, _MISSING)))
            for key in {**expected_leaves, **found_leaves}
            if not _same(found_leaves.get(key, _MISSING), expected_leaves.get(key, _MISSING))
        ]  # fmt: skip
        comparisons += differences or [CardComparison(f"{part}: {len(expected_leaves)} values", _MATCHES, _MATCHES)]
    return comparisons + [*_compare_text(body.splitlines(), expected_body.splitlines())]


def _expected_repository(run: Run, metadata: Any, repository: str | None) -> str:
    """The repository that the card must name. The namespace of a folder on this machine is not known: it is taken from the card."""
    block = metadata.get("sslzoo") if isinstance(metadata, dict) else None
    named = block.get("repository") if isinstance(block, dict) else None
    if not isinstance(named, str) or not REPO_ID.fullmatch(named):
        named = ""
    if repository is not None:
        return named if named.lower() == repository.lower() else repository
    name = named.partition("/")[2] or run.folder.absolute().name if is_imported(run) else run.recipe.name
    return f"{named.partition('/')[0] or OWN_NAMESPACE}/{name}"


def _part(metadata: Any, part: str) -> Any:
    """The `sslzoo` block ("card"), the "model-index", or the remaining "metadata"."""
    if not isinstance(metadata, dict):
        return metadata if part == "metadata" else _MISSING
    if part == "metadata":
        return {key: value for key, value in metadata.items() if key not in _BLOCKS.values()}
    return metadata.get(_BLOCKS[part], _MISSING)


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that contains no others, with its path: "numbers[3].arguments.k"."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and value:
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{path}[{index}]")
    else:
        yield path or "all of it", value if isinstance(value, (str, int, float, dict, list, type(None))) else str(value)


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and one == other


def _printable(value: Any) -> Any:
    """A value that can be printed and written as JSON; different values stay different."""
    if isinstance(value, str) and (len(value) > 200 or not value.isprintable()):
        return ascii(value[:200])
    return str(value)[:200] if isinstance(value, int) and abs(value) >= 10**15 else value


def _compare_text(found: list[str], expected: list[str]) -> Iterator[CardComparison]:
    """Lines that only one of the two has, those of tables first, at most `_MAX_LINES` of each kind."""
    if found == expected:
        yield CardComparison(f"table and text: {len(expected)} lines", _MATCHES, _MATCHES)
        return
    extra, missing = Counter(found) - Counter(expected), Counter(expected) - Counter(found)
    if not extra and not missing:
        yield CardComparison("text: the order of its lines", "different", _MATCHES)
    for part in ("table", "text"):
        lines = ([line for line in some.elements() if line.startswith("|") == (part == "table")] for some in (extra, missing))
        for one, other in islice(zip_longest(*lines, fillvalue=_MISSING), _MAX_LINES):
            yield CardComparison(f"{part}: {one_line(one if other is _MISSING else other)}", _printable(one), _printable(other))
