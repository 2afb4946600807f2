"""Distributed runs: every process takes the same branches, whatever only one of them encounters.

All processes must reach every collective operation. What only one may encounter (a missing file, a full disk, a signal) is therefore
shared with the others before any of them branches on it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, TypeVar

import torch
import torch.distributed as distributed
from torch import Tensor

from sslzoo.errors import InputError, TrainingError, first_line

T = TypeVar("T")


def world_size() -> int:
    """The number of processes; 1 without torch.distributed."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """The number of this process; 0 is the main one."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def gather_objects(value: T) -> list[T]:
    """The value of every process, in rank order, on all of them."""
    values = [value] * world_size()
    if len(values) > 1:
        distributed.all_gather_object(values, value)
    return values


def check_equal(what: str, value: Any) -> None:
    """Raises `InputError` in all processes unless they all found the same `value`, which `what` names in the message.

    Of dicts the message shows only the entries that differ.
    """
    values = gather_objects(value)
    differing = next((number for number, found in enumerate(values) if found != values[0]), None)
    if differing is not None:
        main, local = values[0], values[differing]
        if isinstance(main, dict):
            keys = [key for key in {**main, **local} if main.get(key) != local.get(key)]
            main, local = ({key: side.get(key) for key in keys} for side in (main, local))
        raise InputError(f"{what} must be alike for all processes: {main} in process 0, {local} in process {differing}")


def local_positions(count: int) -> Tensor:
    """The contiguous part of the positions 0 .. count - 1 that belongs to this process, int64."""
    return torch.arange(count).tensor_split(world_size())[rank()]


def all_gather_rows(rows: Tensor) -> Tensor:
    """The rows (n, ...) of all processes concatenated in rank order, without gradient; n may differ between processes."""
    counts = gather_objects(len(rows))
    if len(counts) == 1:
        return rows
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in counts]
    distributed.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def gather_in_place(rows: Tensor, first: int, count: int) -> Tensor:
    """The rows of all processes in rank order, at the start of `rows`, without a second buffer; a view, without gradient.

    rows: (n, ...), of one shape in all processes. Each has written `count` rows from row `first` on, behind the places of all lower ranks.
    """
    counts = gather_objects(count)
    ends = list(accumulate(counts))
    start = ends[rank()] - count
    if start < first:
        # In chunks through a copy, as source and target overlap.
        for low in range(0, count, _MOVED_ROWS):
            high = min(low + _MOVED_ROWS, count)
            rows[start + low : start + high] = rows[first + low : first + high].clone()
    if len(counts) > 1:
        for source, end in enumerate(ends):
            if counts[source]:
                distributed.broadcast(rows[end - counts[source] : end], source)
    return rows[: ends[-1]]


_MOVED_ROWS = 1024  # at a time


@contextmanager
def all_or_none() -> Iterator[None]:
    """All processes finish the block, or none: an error in one of them is raised there and reported by an error in the others.

    The block must not contain a collective operation, as a failing process would not reach it. The failing process raises its own error,
    the others raise `InputError` where that is one and `TrainingError` for any other kind.
    """
    error = None
    try:
        yield
    except Exception as raised:  # shared with the others, then raised
        error = raised
    errors = gather_objects(None if error is None else (isinstance(error, InputError), first_line(error)))
    failed = [(number, *found) for number, found in enumerate(errors) if found is not None]
    if error is None and failed:
        number, of_input, message = failed[0]
        raise (InputError if of_input else TrainingError)(f"process {number}: {message}")
    if error is not None:
        raise error


def broadcast_tensors(tensors: dict[str, Tensor] | None, device: torch.device) -> dict[str, Tensor] | None:
    """The main process's tensors, on every process's device; None where it has none. The others' argument is ignored."""
    if world_size() == 1:
        return tensors
    shapes = broadcast_from_main(lambda: tensors and {name: (value.shape, value.dtype) for name, value in tensors.items()})
    if shapes is None:
        return None
    received = {}
    for name, (shape, dtype) in shapes.items():
        received[name] = tensors[name].contiguous() if rank() == 0 else torch.empty(shape, dtype=dtype, device=device)
        distributed.broadcast(received[name], 0)
    return received


def broadcast_from_main(decide: Callable[[], T]) -> T:
    """The result of `decide` in the main process, on all processes; the others do not call it. Raises as `all_or_none` does."""
    value: list[Any] = [None]
    with all_or_none():
        if rank() == 0:
            value = [decide()]
    if world_size() > 1:
        distributed.broadcast_object_list(value, 0)
    return value[0]


@contextmanager
def explain_lost_process() -> Iterator[None]:
    """Around distributed work: if another process dies in the middle of it, raises a `TrainingError` that says so.

    Gloo reports a lost peer at once; NCCL waits for its own timeout, or for the launcher to stop the others.
    """
    try:
        yield
    except RuntimeError as error:
        if world_size() > 1 and any(message in str(error) for message in _LOST):
            raise TrainingError("another process has ended; where it was not killed, its own line says why") from error
        raise


_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Socket closed", "remote process exited")
