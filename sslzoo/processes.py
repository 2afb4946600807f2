"""Several processes that go the same way: what one of them meets, all of them act on.

Every collective operation must be reached by all processes alike. So whatever only one of them may meet (a file that is missing on its
machine, a full disk, a signal) is told to the others before they branch on it.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

import torch
import torch.distributed as distributed
from torch import Tensor

from sslzoo.errors import InputError, TrainingError, first_line

T = TypeVar("T")


def world_size() -> int:
    """How many processes there are, 1 where none are connected."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Which process this is, 0 for the main one."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def from_all(value: T) -> list[T]:
    """What each process has, in the order of their numbers, in all of them."""
    values = [value] * world_size()
    if len(values) > 1:
        distributed.all_gather_object(values, value)
    return values


def check_alike(what: str, value: Any) -> None:
    """Raises `InputError` in all processes where they differ in `value`, which each of them found for itself; `what` names it.

    Of a dict the error tells only what differs.
    """
    values = from_all(value)
    other = next((number for number, found in enumerate(values) if found != values[0]), None)
    if other is not None:
        first, found = values[0], values[other]
        if isinstance(first, dict):
            apart = [key for key in {**first, **found} if first.get(key) != found.get(key)]
            first, found = ({key: side.get(key) for key in apart} for side in (first, found))
        raise InputError(f"{what} must be alike for all processes: {first} in process 0, {found} in process {other}")


def own_share(count: int) -> Tensor:
    """This process's positions of `count` in all, int64: a part of them that lie together."""
    return torch.arange(count).tensor_split(world_size())[rank()]


def joined(rows: Tensor) -> Tensor:
    """The rows (n, ...) of all processes, of which each may have a different number, one behind the other in all; without gradient."""
    counts = from_all(len(rows))
    if len(counts) == 1:
        return rows
    filled = rows.new_zeros(max(counts), *rows.shape[1:])
    filled[: len(rows)] = rows
    parts = [torch.empty_like(filled) for _ in counts]
    distributed.all_gather(parts, filled)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


@contextmanager
def all_or_none() -> Iterator[None]:
    """A block that all processes finish, or none: an error in one is raised there, and in the others one of its kind that tells it.

    The block holds no collective operation, for a process that fails would not reach it. Raises what the block does, in the other
    processes `InputError` or, for any other kind, `TrainingError`.
    """
    error = None
    try:
        yield
    except Exception as raised:  # told to the others, then raised
        error = raised
    told = from_all(error and (isinstance(error, InputError), first_line(error)))
    failed = [(number, *said) for number, said in enumerate(told) if said is not None]
    if error is None and failed:
        number, of_input, message = failed[0]
        raise (InputError if of_input else TrainingError)(f"process {number}: {message}")
    if error is not None:
        raise error


def from_main(tensors: dict[str, Tensor] | None, device: torch.device) -> dict[str, Tensor] | None:
    """The main process's tensors, on each process's device; None where it has none. What the others give does not count."""
    if world_size() == 1:
        return tensors
    shapes = main_decides(lambda: tensors and {name: (value.shape, value.dtype) for name, value in tensors.items()})
    if shapes is None:
        return None
    received = {}
    for name, (shape, dtype) in shapes.items():
        received[name] = tensors[name].contiguous() if rank() == 0 else torch.empty(shape, dtype=dtype, device=device)
        distributed.broadcast(received[name], 0)
    return received


def main_decides(decide: Callable[[], T]) -> T:
    """What `decide` gives in the main process, in all of them; the others do not call it. Raises as `all_or_none` does."""
    value: list[Any] = [None]
    with all_or_none():
        if rank() == 0:
            value = [decide()]
    if world_size() > 1:
        distributed.broadcast_object_list(value, 0)
    return value[0]


@contextmanager
def others_may_end() -> Iterator[None]:
    """Around all the work of several processes: where another one has ended in the middle of it, a `TrainingError` says so.

    Only where the backend tells; NCCL waits for its own timeout, or for the launcher to end the rest.
    """
    try:
        yield
    except RuntimeError as error:
        if world_size() > 1 and any(said in str(error) for said in _LOST):
            raise TrainingError("another process has ended; where it was not killed, its own line says why") from error
        raise


_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Socket closed", "remote process exited")


class StopRequest:
    """Ctrl-C and SIGTERM, noted until all processes have heard of it at the end of a step. A second Ctrl-C is not waited with.

    Used as a context; outside the main thread, where no signals come, it does nothing.
    """

    def __init__(self):
        self._received = 0
        self._pending: tuple[distributed.Work, torch.Tensor] | None = None
        self._before: dict[int, Any] = {}
        # On the CPU, so that the step's own work on an accelerator is not waited for.
        self._group = distributed.new_group(backend="gloo") if world_size() > 1 else None

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._pending is not None:
            self._pending = None

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._received == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = max(self._received, int(number))

    def agreed(self) -> int:
        """The signal that any process got, or 0: the same in all of them. Called once at the end of each step.

        With several processes it is that of the step before, whose exchange went on meanwhile.
        """
        if self._group is None:
            return self._received
        before = self._pending
        value = torch.tensor(self._received)
        self._pending = distributed.all_reduce(value, distributed.ReduceOp.MAX, self._group, async_op=True), value
        if before is None:
            return 0
        work, value = before
        work.wait()
        return int(value)
