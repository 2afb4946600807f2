"""A small cache with a lock: holds what was made for the most recently used keys, and makes one thing at a time."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable


class LRUCache:
    """Values of the last `max_size` keys that were used. Safe to use from several threads."""

    def __init__(self, max_size: int):
        self._max_size, self._values, self._lock = max_size, OrderedDict(), threading.Lock()

    def get(self, key: Hashable, make: Callable):
        """The key's value, made now if it is not cached. If `make` raises, nothing is cached."""
        with self._lock:
            if key not in self._values:
                while len(self._values) >= self._max_size:
                    self._values.popitem(last=False)
                self._values[key] = make()
            self._values.move_to_end(key)
            return self._values[key]
