"""The interface of an evaluation protocol: its constants, the session it runs in, and the numbers it returns."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, NamedTuple

from accelerate import Accelerator
from tqdm import tqdm
from transformers import PreTrainedModel

from sslzoo.stopping import TIME_IS_UP, TimeLimit, stopped_by

from .evaluation_data import Data


class Session(NamedTuple):
    """How a measurement is run. Apart from the seed, nothing here changes a number beyond rounding."""

    accelerator: Accelerator
    seed: int
    bar: tqdm  # counts images; a protocol sets its total
    state: Path | None = None  # a folder for this measurement alone, from which it can be resumed; None: cannot be resumed
    limit: TimeLimit | None = None  # when to stop where it can be resumed

    def stop_if_time_is_up(self, what: str) -> None:
        """Called by all processes between two parts of a measurement, when `what` is done and saved. Raises `StoppedError`."""
        if self.limit is not None and not self.limit.all_allow(0.0):
            raise stopped_by(TIME_IS_UP, f"with {what}: the same command continues")


class Measured(NamedTuple):
    """One number: metric "linear_top1", arguments such as {"k": 20}, value a fraction of the test images."""

    metric: str
    arguments: dict[str, Any]
    value: float


class Protocol(ABC):
    """The constants of an evaluation, as a frozen dataclass. A changed constant needs a new name: numbers of two names are never compared.

    tolerance: how far a number may be off when it is measured again on another machine (fraction of the images).
    precision: "fp32", or the type of autocast on accelerators; CPUs always compute in float32.
    """

    tolerance: float
    precision: str

    @abstractmethod
    def measure(self, encoder: PreTrainedModel, data: Data, session: Session) -> list[Measured]:
        """All numbers of the protocol, in every process. The encoder is on the accelerator's device and is not changed."""

    def precision_on(self, accelerator: Accelerator) -> str:
        """The precision that networks actually compute in on this accelerator, for the provenance: "fp32", "fp16" or "bf16"."""
        return "fp32" if self.precision == "fp32" or accelerator.mixed_precision == "no" else accelerator.mixed_precision


def quiet_session(accelerator: Accelerator, seed: int) -> Session:
    """A session without a progress bar, which cannot be resumed."""
    return Session(accelerator, seed, tqdm(disable=True))
