"""Running work in threads a little ahead of its use."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from typing import TypeVar

_BYTES, _PIXELS = 5000, 20_000  # measured by benches/decode.py

Item = TypeVar("Item")
Result = TypeVar("Result")


def thread_count(encoded: int, pixels: int) -> int:
    """In how many threads to decode images of so many bytes and px: not more than 16, than this process has cores, or than save time.

    Opening an image holds the interpreter's lock as long as decoding 5,000 bytes or 20,000 px takes without it. A second thread for smaller
    images only waits for the first one, and costs time.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 16, 1 + max(encoded // _BYTES, pixels // _PIXELS))


def prefetch(pool: Executor, work: Callable[[Item], Result], items: Iterable[Item], depth: int) -> Iterator[Result]:
    """work(item) for each item, in order, with at most `depth` items in progress or waiting to be consumed. Errors are raised here."""
    pending = deque()
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) == depth:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
