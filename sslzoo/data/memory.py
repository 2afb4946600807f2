"""Limits of memory: of a decoded data set, and of the images being decoded at the same time."""

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch


def default_budget(device: torch.device) -> int:
    """A quarter of the device's free memory, in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 4
    return min(_available(), _container_limit()) // 4


def _available() -> int:
    # Unlike free memory, available memory includes the page cache, which holds the data set's own files.
    meminfo = Path("/proc/meminfo")
    found = re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text(encoding="utf-8")) if meminfo.exists() else None
    return int(found[1]) * 1024 if found else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _container_limit() -> int:
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text(encoding="utf-8").strip() if limit.exists() else "max"
    return 2**62 if text == "max" else int(text)


class PixelSemaphore:
    """A semaphore that counts px. All threads together hold at most `pixels`; one that needs more waits until it is alone."""

    def __init__(self, pixels: int = 2**25):
        self._pixels, self._used = pixels, 0
        self._changed = threading.Condition()

    @contextmanager
    def acquired(self, pixels: int) -> Iterator[None]:
        """Holds `pixels` px during the block, once they are free."""
        with self._changed:
            self._changed.wait_for(lambda: not self._used or self._used + pixels <= self._pixels)
            self._used += pixels
        try:
            yield
        finally:
            with self._changed:
                self._used -= pixels
                self._changed.notify_all()
