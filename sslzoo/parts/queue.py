"""A queue of the embeddings of recent batches."""

import torch
import torch.distributed as distributed
import torch.nn.functional as F
from torch import Tensor, nn

from .gather import gather, rank


class Queue(nn.Module):
    """The last `length` rows, first in, first out, the same on all devices; random unit vectors until it is full.

    rows: (length, width). position: of the oldest row, which the next one replaces.
    """

    def __init__(self, length: int, width: int):
        super().__init__()
        self.register_buffer("rows", F.normalize(torch.randn(length, width), dim=1))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def enqueue(self, rows: Tensor) -> None:
        """Replaces the oldest rows by those of all devices, each of which must have equally many."""
        rows = gather(rows.detach().to(self.rows.dtype))
        length = len(self.rows)
        kept = rows[-length:]  # the last ones, of more rows than the queue is long
        places = torch.arange(len(rows) - len(kept), len(rows), device=rows.device)
        self.rows.index_copy_(0, (self.position + places) % length, kept)
        self.position.add_(len(rows)).remainder_(length)

    def local_rows(self) -> Tensor:
        """This device's part of the rows: each row falls to exactly one device."""
        return self.rows[rank() :: distributed.get_world_size() if distributed.is_initialized() else 1]
