"""The resolution that views and evaluation require; larger images are reduced while they are decoded."""

from typing import NamedTuple

_MAX_ASPECT = 2  # of the long side, in units of the largest short side
_Box = tuple[int, int, int, int]


class RequiredResolution(NamedTuple):
    """How far large images are reduced, so that neither size nor shape of an image makes a batch large.

    short: px to which evaluation resizes the short side.
    times: short sides above `times * short` px are reduced to that; to fewer times `short` where the long side would exceed
        `2 * times * short`. As the factor is a whole number, evaluation sees the same centre as in the full image. A panorama that is
        too long even at once `short` is cropped to its middle.
    squash: evaluation does not keep the aspect ratio; a panorama is then kept in full, its length reduced.
    """

    short: int
    times: int
    squash: bool = False


class Plan(NamedTuple):
    """box: the part that is kept, left, top, right, bottom in px of the stored image. size: the width and height it is reduced to."""

    box: _Box
    size: tuple[int, int]


def plan(size: tuple[int, int], longest: int | None, resolution: RequiredResolution | None) -> Plan:
    """How an image of this width and height is cropped and reduced. longest: px, the longest allowed side; None: any."""
    box, kept = (0, 0, *size), size
    if resolution is not None:
        box, kept = _reduced(size, resolution)
    if longest is not None and max(kept) > longest:
        scale = longest / max(kept)
        kept = max(1, round(kept[0] * scale)), max(1, round(kept[1] * scale))
    return Plan(box, kept)


def _reduced(size: tuple[int, int], resolution: RequiredResolution) -> tuple[_Box, tuple[int, int]]:
    (short, long), most = sorted(size), _MAX_ASPECT * resolution.short * resolution.times
    kept_short, kept_long = short, long
    for times in range(resolution.times, 0, -1):
        if short > resolution.short * times:
            # Rounded down, as evaluation rounds the resized long side.
            kept_short, kept_long = resolution.short * times, long * resolution.short * times // short
        if kept_long <= most:
            break
    length = long
    if kept_long > most and resolution.squash:
        kept_long = most
    elif kept_long > most:
        # Both ends lose whole multiples of the short side, which keeps the centre in place to the px.
        length -= (long - most * short // kept_short) // (2 * short) * 2 * short
        kept_long = length * kept_short // short
    start = (long - length) // 2
    if size[0] == long:
        return (start, 0, start + length, size[1]), (kept_long, kept_short)
    return (0, start, size[0], start + length), (kept_short, kept_long)
