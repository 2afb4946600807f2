"""Mean and standard deviation of the channels of a data set, the same on any machine and any number of processes."""

import math

import numpy as np
import torch

from sslzoo.errors import InputError
from sslzoo.processes import all_or_none, gather_objects, local_positions

from .images import ImageSet

_MOST = 10_000  # images that are read; of more, evenly spaced ones
_BATCH = 64  # images
_DIGITS = 6  # significant ones that are kept


def channel_statistics(images: ImageSet) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, 0 to 1, over the pixels of up to 10,000 evenly spaced images.

    Called by all processes, each of which reads its share. Sums are of integers, so that nothing depends on the order or the number of
    processes; a resident and a streamed set give the same. Raises `InputError` for a channel that is the same everywhere.
    """
    chosen = torch.from_numpy(np.unique(np.linspace(0, len(images) - 1, min(len(images), _MOST)).astype(np.int64)))
    count, sums, squares, most = 0, [], [], 255
    with all_or_none():
        for _, batch in images.read(chosen[local_positions(len(chosen))], _BATCH):
            most = 255 if batch.pixels.dtype == torch.uint8 else 65535
            for image in batch.pixels:
                values = image.flatten(1).long()  # outside of its size an image is 0
                sums.append(values.sum(dim=1))
                squares.append(values.square().sum(dim=1))
            count += int(batch.sizes.prod(dim=1).sum())
    shares = gather_objects((count, _exact_sum(sums), _exact_sum(squares), most))
    count, most = sum(share[0] for share in shares), max(share[3] for share in shares)
    total, of_squares = ([sum(column) for column in zip(*(share[part] for share in shares if share[0]), strict=True)] for part in (1, 2))
    mean = [value / (count * most) for value in total]
    std = [math.sqrt(count * square - value**2) / (count * most) for value, square in zip(total, of_squares, strict=True)]
    if 0 in std:
        raise InputError(
            f"channel {std.index(0) + 1} of {len(std)} has the same value in all images of {images.source} ({images.split}): leave it out, "
            "or give mean and std"
        )
    return tuple(map(_rounded, mean)), tuple(map(_rounded, std))


def _exact_sum(rows: list[torch.Tensor]) -> list[int]:
    """Of each channel, beyond the range of 64 bits."""
    return [sum(column) for column in zip(*(row.tolist() for row in rows), strict=True)]


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
