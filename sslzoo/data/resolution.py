"""How large an image has to be for what looks at it: more is reduced while it is decoded."""

from typing import NamedTuple

_LONGEST = 2  # times the side
_Box = tuple[int, int, int, int]


class RequiredResolution(NamedTuple):
    """What is kept of a large image, so that no shape and no size makes a batch large.

    short: px that evaluation resizes the short side to. times: a short side of more than so many times as many px is reduced to that; a
        long side of more than twice as many px makes it fewer times. With a whole number of times, the resized image and its centre
        have the same px as they have of the whole image. The middle of a panorama of which even one time is too long is kept.
    squash: evaluation gives up the images' shape, so of a panorama the whole is kept, its length reduced.
    """

    short: int
    times: int
    squash: bool = False


class Plan(NamedTuple):
    """box: left, top, right, bottom in px of the stored image, the part that is kept. size: width and height that it is reduced to."""

    box: _Box
    size: tuple[int, int]


def plan(size: tuple[int, int], longest: int | None, resolution: RequiredResolution | None) -> Plan:
    """What is kept of an image of this width and height. longest: px, the longest allowed side; None: any."""
    box, kept = (0, 0, *size), size
    if resolution is not None:
        box, kept = _reduced(size, resolution)
    if longest is not None and max(kept) > longest:
        scale = longest / max(kept)
        kept = max(1, round(kept[0] * scale)), max(1, round(kept[1] * scale))
    return Plan(box, kept)


def _reduced(size: tuple[int, int], resolution: RequiredResolution) -> tuple[_Box, tuple[int, int]]:
    (short, long), most = sorted(size), _LONGEST * resolution.short * resolution.times
    kept_short, kept_long = short, long
    for times in range(resolution.times, 0, -1):
        if short > resolution.short * times:
            # Rounded down, as the resized long side is.
            kept_short, kept_long = resolution.short * times, long * resolution.short * times // short
        if kept_long <= most:
            break
    length = long
    if kept_long > most and resolution.squash:
        kept_long = most
    elif kept_long > most:
        # The ends go by whole multiples of the short side: the centre stays where it is, to the px.
        length -= (long - most * short // kept_short) // (2 * short) * 2 * short
        kept_long = length * kept_short // short
    start = (long - length) // 2
    if size[0] == long:
        return (start, 0, start + length, size[1]), (kept_long, kept_short)
    return (0, start, size[0], start + length), (kept_short, kept_long)
