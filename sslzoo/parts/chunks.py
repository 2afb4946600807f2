"""Losses of many rows over many columns, a chunk of rows at a time, so that all of their logits are never in memory at once."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

_LOGITS = 2**25  # of a chunk: 128 MiB in float32


def in_chunks(function: Callable[..., Tensor], rows: Sequence[Tensor], columns: int) -> Tensor:
    """function(*rows), in chunks of rows if there are more than 2**25 logits, which the backward pass then computes again chunk by chunk.

    function: one result per row, from logits (rows, columns) that do not depend on the other rows; without random numbers.
    rows: (n, ...) each. Gradients reach other tensors that the function uses as well.
    """
    parts = split_rows(rows, columns)
    if len(parts) == 1:
        return function(*rows)
    return torch.cat([checkpoint(function, *part, use_reentrant=False, preserve_rng_state=False) for part in parts])


def split_rows(rows: Sequence[Tensor], columns: int) -> list[tuple[Tensor, ...]]:
    """The rows, (n, ...) each, in chunks of at most 2**25 logits or of one row."""
    return list(zip(*(values.split(max(1, _LOGITS // columns)) for values in rows), strict=True))
