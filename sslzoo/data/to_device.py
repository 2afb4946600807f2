"""Batches on their way to a CUDA device: each is copied, on a stream of its own, while the steps before it go on."""

from typing import NamedTuple

import torch
from torch import Tensor

from .images import Batch


class Copy(NamedTuple):
    """A batch on its way to the device.

    positions: its `samples`, on the CPU. done: the event after which the batch is complete, None where it is already.
    """

    positions: Tensor
    batch: Batch
    done: torch.cuda.Event | None


def copy_stream(device: torch.device) -> torch.cuda.Stream | None:
    """A stream for copies to the device, None where there are no streams."""
    return torch.cuda.Stream(device) if device.type == "cuda" else None


def start_copy(batch: Batch, device: torch.device, stream: torch.cuda.Stream | None) -> Copy:
    """Begins to copy a batch, in pinned memory for CUDA, and does not wait. Called in the thread that has made the batch."""
    if stream is None:
        return Copy(batch.samples, _to(batch, device), None)
    with torch.cuda.stream(stream):
        return Copy(batch.samples, _to(batch, device), stream.record_event())


def receive(copy: Copy) -> Batch:
    """The batch, for the caller's stream, which waits until it is complete; the caller does not."""
    if copy.done is not None:
        current = torch.cuda.current_stream(copy.batch.pixels.device)
        current.wait_event(copy.done)
        for tensor in copy.batch:
            if tensor is not None:
                # Its memory belongs to the other stream, which must not use it again before this one is done with it.
                tensor.record_stream(current)
    return copy.batch


def _to(batch: Batch, device: torch.device) -> Batch:
    return Batch(*(None if tensor is None else tensor.to(device, non_blocking=True) for tensor in batch))
