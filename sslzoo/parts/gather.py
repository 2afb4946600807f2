"""Rows of all devices, with gradient, so that a loss over the global batch has the gradient of one device with all of it."""

import torch
import torch.distributed as distributed
from torch import Tensor


def rank() -> int:
    """This process's number, 0 where there is one process."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def gather(rows: Tensor) -> Tensor:
    """The rows of all processes, concatenated: (processes * n, ...). Every process must have n of them.

    When each process minimises a mean over its own rows and gradients are averaged over processes, the result is the gradient of the
    mean over all rows.
    """
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return rows
    return _Gather.apply(rows)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(context, rows: Tensor) -> Tensor:
        context.count = len(rows)
        parts = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(context, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        distributed.all_reduce(total)
        return total.narrow(0, rank() * context.count, context.count)
