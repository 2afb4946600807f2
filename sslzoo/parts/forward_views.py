"""Several views through one network."""

from collections.abc import Callable

import torch
from torch import Tensor


def forward_views(network: Callable[[Tensor], Tensor], views: list[Tensor], joint: bool) -> list[Tensor]:
    """The network's output for every view, each (n, ...), in order.

    joint: consecutive views of one size go through in one batch, which is faster and lets batch norms see them together.
    """
    if not joint:
        return [network(view) for view in views]
    outputs: list[Tensor] = []
    while len(outputs) < len(views):
        begin = end = len(outputs)
        while end < len(views) and views[end].shape == views[begin].shape:
            end += 1
        outputs.extend(network(torch.cat(views[begin:end])).chunk(end - begin))
    return outputs
