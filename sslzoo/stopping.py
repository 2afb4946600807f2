"""Stopping a long command so that it can be continued: at Ctrl-C, at SIGTERM, or when its time is up."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
import torch.distributed as distributed

from sslzoo.errors import StoppedError
from sslzoo.processes import broadcast_from_main, world_size

TIME_IS_UP = 1  # in the place of a signal's number; below those that are caught, as the largest number counts
TRY_AGAIN = 75  # the exit code when the time is up, EX_TEMPFAIL of sysexits.h: the same command again goes on
_STEPS = 2  # that are kept free at the end: with several processes, a step passes before all of them know that the time is up


class TimeLimit:
    """The time within which a command has to save and end.

    began: when the command did, by the clock; None: now.
    saving: seconds that saving took at most; so much is kept free at the end. started: seconds until the first step, None before.
    """

    def __init__(self, seconds: float, began: float | None = None, clock: Callable[[], float] = time.monotonic):
        self.seconds = seconds
        self._clock, self._began = clock, clock() if began is None else began
        self.saving = 0.0
        self.started: float | None = None

    @property
    def elapsed(self) -> float:
        """Seconds so far."""
        return self._clock() - self._began

    def allows(self, seconds: float) -> bool:
        """Whether there is time for work of so many seconds and for saving after it, by this process's clock."""
        return self.elapsed + seconds + self.saving <= self.seconds

    def all_allow(self, seconds: float) -> bool:
        """The same by the main process's clock, on all processes, which all call it: before work that cannot be stopped."""
        return broadcast_from_main(lambda: self.allows(seconds))

    @contextmanager
    def measuring_saving(self) -> Iterator[None]:
        """Around saving."""
        began = self.elapsed
        yield
        self.saving = max(self.saving, self.elapsed - began)


class StopRequest:
    """Catches Ctrl-C and SIGTERM, and sees that the time is up, until all processes know of it at the end of a step.

    A second Ctrl-C interrupts at once. A context manager; outside the main thread, which alone receives signals, it catches none.
    """

    def __init__(self, limit: TimeLimit | None = None):
        self.limit = limit
        self._received = 0
        self._step_began: float | None = None
        self._pending: tuple[distributed.Work, torch.Tensor] | None = None
        self._before: dict[int, Any] = {}
        # On the CPU, so that the exchange does not wait for the step's work on an accelerator.
        self._group = distributed.new_group(backend="gloo") if world_size() > 1 else None

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._record) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._pending is not None:
            self._pending = None

    def start_steps(self) -> None:
        """Called before the first of several steps that follow one another without other work, such as saving."""
        if self.limit is not None:
            self._step_began = self.limit.elapsed
            if self.limit.started is None:
                self.limit.started = self._step_began

    def agreed_reason(self) -> int:
        """The signal that any process received, `TIME_IS_UP`, or 0; the same on all of them. Called once at the end of each step.

        With several processes it is the previous step's reason, whose exchange has run in the background.
        """
        reason = self._received or (TIME_IS_UP if self._is_last_step() else 0)
        if self._group is None:
            return reason
        before = self._pending
        value = torch.tensor(reason)
        self._pending = distributed.all_reduce(value, distributed.ReduceOp.MAX, self._group, async_op=True), value
        if before is None:
            return 0
        work, value = before
        work.wait()
        return int(value)

    def _record(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._received == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = max(self._received, int(number))

    def _is_last_step(self) -> bool:
        if self.limit is None or self._step_began is None:
            return False
        now = self.limit.elapsed
        step, self._step_began = now - self._step_began, now
        return not self.limit.allows(_STEPS * step)


def stopped_by(reason: int, what: str) -> StoppedError:
    """The error that ends a command, "stopped by SIGTERM " and then `what`. reason: as `StopRequest.agreed_reason` gives it."""
    if reason == TIME_IS_UP:
        return StoppedError(f"stopped by the time limit {what}", TRY_AGAIN)
    return StoppedError(f"stopped by {signal.Signals(reason).name} {what}", 128 + reason)
