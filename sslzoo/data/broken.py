"""Counting broken images: a few are left out, many mean that something is wrong with the data set."""

import logging
import threading

from sslzoo.errors import InputError

_SHARE = 0.01
_log = logging.getLogger(__name__)


class BrokenImages:
    """The broken rows of one split of `total` rows. Safe to use from several threads."""

    def __init__(self, source: str, split: str, total: int):
        self._where = f"{source} ({split})"
        self._total = total
        self._names: dict[int, str] = {}
        self._lock = threading.Lock()

    def __contains__(self, row: int) -> bool:
        return row in self._names

    @property
    def names(self) -> list[str]:
        """Names of the broken images in the order of the rows."""
        with self._lock:
            return [name for _, name in sorted(self._names.items())]

    def add(self, row: int, name: str, reason: str, seen: int) -> None:
        """Notes a broken row when `seen` rows were looked at. Raises `InputError` once there are too many.

        Too many: more than 1 % of the data set, or of the rows seen by more than three standard deviations, so that two broken images
        which happen to come early do not end a run. One broken image is never too many, unless it is the only one.
        """
        with self._lock:
            if row in self._names:
                return
            self._names[row] = name
            count = len(self._names)
        _log.warning("%s: left out %s: %s", self._where, name, reason)
        expected = _SHARE * max(seen, 100)
        most = min(_SHARE * max(self._total, 100), expected + 3 * expected**0.5)
        if count > most or count == self._total:
            first = ", ".join(self.names[:3])
            raise InputError(f"{count} of {seen} images in {self._where} cannot be read (1 % may): {first} ... (last: {reason})")
