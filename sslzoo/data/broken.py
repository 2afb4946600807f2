"""Counting broken images: a few are left out, many mean that something is wrong with the data set."""

import logging
import threading

from sslzoo.errors import InputError

from .names import shown

_NAMED = 20  # in messages of their own
_log = logging.getLogger(__name__)


class BrokenImages:
    """The broken rows of one split of `total` rows, of which the share `share` may be broken. Safe to use from several threads."""

    def __init__(self, source: str, split: str, total: int, share: float = 0.01):
        self._where = f"{shown(source)} ({split})"
        self._total = total
        self._share = share
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

        Too many: more than the share of the data set, or of the rows seen by more than three standard deviations, so that two broken
        images which happen to come early do not end a run. One broken image is too many only where the share is 0 or it is the only image.
        """
        name = shown(name)
        with self._lock:
            if row in self._names:
                return
            self._names[row] = name
            count = len(self._names)
        if count <= _NAMED:
            more = "; of further ones only the number is told" if count == _NAMED else ""
            _log.warning("%s: left out %s: %s%s", self._where, name, reason, more)
        one = 1 if self._share else 0
        expected = max(one, self._share * seen)
        most = min(max(one, self._share * self._total), expected + 3 * expected**0.5)
        if count > most or count == self._total:
            first = ", ".join(self.names[:3])
            raise InputError(
                f"{count} of {seen} images in {self._where} cannot be read ({100 * self._share:g} % may): {first} ... (last: {reason}); "
                "the recipe's broken_share lets more be left out"
            )
