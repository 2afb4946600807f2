"""The Space's list of models: what the Hub lists, requested in the background; until it answers, the cards that come with sslzoo."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from sslzoo.hub import Entry, ListedModel, Quarantined, card_models, hub_models, read_entries


class Listing(NamedTuple):
    """entries: by name, the project's own first. source: where the list comes from, in a few words."""

    entries: dict[str, Entry]
    quarantined: list[Quarantined]
    source: str


class Board:
    """A listing that is requested at once, in the background, and again when it is older than `max_age` seconds.

    list_models: requests the list, from the Hub by default. cards: a folder of cards that are listed until the first response; None:
    those that come with sslzoo. patience: seconds from the first request in which `wait_for_hub` waits for its response.
    """

    def __init__(
        self, list_models: Callable[[], list[ListedModel]] = hub_models, cards: Path | None = None, max_age: float = 600,
        patience: float = 8,
    ):  # fmt: skip
        self._list_models, self._max_age, self._deadline = list_models, max_age, time.monotonic() + patience
        self._listing = _listing(card_models(cards), "the cards that come with sslzoo, as the Hub has not answered")
        self._requested_at = -float("inf")
        self._lock, self._first_response = threading.Lock(), threading.Event()
        self.current()

    def current(self) -> Listing:
        """The latest listing, without waiting; starts a refresh if it is too old."""
        with self._lock:
            is_old = time.monotonic() - self._requested_at > self._max_age
            if is_old:
                self._requested_at = time.monotonic()
        if is_old:
            threading.Thread(target=self._refresh, daemon=True).start()
        return self._listing

    def wait_for_hub(self) -> Listing:
        """The latest listing, after the Hub's first response, or without it once the patience has ended."""
        self._first_response.wait(max(0.0, self._deadline - time.monotonic()))
        return self.current()

    def _refresh(self) -> None:
        try:
            self._listing = _listing(self._list_models(), f"the Hub, asked at {time.strftime('%H:%M', time.gmtime())} UTC")
        except ConnectionError:
            # The previous listing stays; the next request is made in a minute.
            self._requested_at = time.monotonic() - self._max_age + min(60, self._max_age)
        self._first_response.set()


def _listing(models: list[ListedModel], source: str) -> Listing:
    entries, quarantined = read_entries(models)
    ordered = sorted(entries, key=lambda entry: (not entry.own, entry.name.lower()))
    return Listing({entry.name: entry for entry in ordered}, quarantined, source)
