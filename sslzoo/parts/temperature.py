"""A temperature that changes in the first steps or epochs, so that targets are sharp until the network has learned something (DINO)."""


def warmed_up(start: float, end: float, now: int, length: int) -> float:
    """The value at `now` (0, 1, ...) of `length` steps or epochs on a line from `start`, whose last has `end`; `end` after them."""
    return start + (end - start) * now / max(1, length - 1) if now < length else end
