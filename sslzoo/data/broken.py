"""Counting broken images: a few are skipped, too many end the run."""

import logging
import threading

from sslzoo.errors import InputError

from .messages import display_name

_MAX_WARNINGS = 20  # that name one image each
_log = logging.getLogger(__name__)


class BrokenImages:
    """The broken rows of a split of `total` rows, of which a share of `share` may be broken. Thread-safe."""

    def __init__(self, source: str, split: str, total: int, share: float = 0.01):
        self._where = f"{display_name(source)} ({split})"
        self._total = total
        self._share = share
        self._names: dict[int, str] = {}
        self._lock = threading.Lock()

    def __contains__(self, row: int) -> bool:
        return row in self._names

    @property
    def names(self) -> list[str]:
        """Names of the broken images, by row."""
        with self._lock:
            return [name for _, name in sorted(self._names.items())]

    def add(self, row: int, name: str, reason: str, read: int) -> None:
        """Records a broken row after `read` rows were read. Raises `InputError` once there are too many.

        Too many: more than the share of the data set, or more than three standard deviations above the share of the rows read, so that two
        broken images that happen to come early do not end a run. A single one is too many only if the share is 0 or no image is left.
        """
        name = display_name(name)
        with self._lock:
            if row in self._names:
                return
            self._names[row] = name
            count = len(self._names)
        if count <= _MAX_WARNINGS:
            more = "; further ones are only counted" if count == _MAX_WARNINGS else ""
            _log.warning("%s: left out %s: %s%s", self._where, name, reason, more)
        one = 1 if self._share else 0
        expected = max(one, self._share * read)
        allowed = min(max(one, self._share * self._total), expected + 3 * expected**0.5)
        if count > allowed or count == self._total:
            first = ", ".join(self.names[:3])
            raise InputError(
                f"{count} of {read} images in {self._where} cannot be read ({100 * self._share:g} % may): {first} ... (last: {reason}); "
                "the recipe's broken_share lets more be left out"
            )
