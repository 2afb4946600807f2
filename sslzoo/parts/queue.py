"""A memory of what the last batches gave."""

import torch
import torch.distributed as distributed
import torch.nn.functional as F
from torch import Tensor, nn

from .gather import gather, rank


class Queue(nn.Module):
    """The last `length` rows, first in, first out, the same on all devices; unit vectors of noise until it has been filled.

    rows: (length, width). position: where the next row goes.
    """

    def __init__(self, length: int, width: int):
        super().__init__()
        self.register_buffer("rows", F.normalize(torch.randn(length, width), dim=1))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def enqueue(self, rows: Tensor) -> None:
        """Puts in the rows of all devices, in place of the oldest; every device must have as many."""
        rows = gather(rows.detach().to(self.rows.dtype))
        length = len(self.rows)
        kept = rows[-length:]  # of more rows than there is room for, the last
        places = torch.arange(len(rows) - len(kept), len(rows), device=rows.device)
        self.rows.index_copy_(0, (self.position + places) % length, kept)
        self.position.add_(len(rows)).remainder_(length)

    def share(self) -> Tensor:
        """The rows that fall to this device where all devices together count each row once."""
        return self.rows[rank() :: distributed.get_world_size() if distributed.is_initialized() else 1]
