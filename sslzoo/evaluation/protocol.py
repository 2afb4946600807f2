"""What a protocol of evaluation is: named constants, and how an encoder is measured by them."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, NamedTuple

from accelerate import Accelerator
from tqdm import tqdm
from transformers import PreTrainedModel

from sslzoo.data import ImageSet

from .classes import Classes
from .features import Preprocessing


class Data(NamedTuple):
    """What is measured on."""

    train: ImageSet
    test: ImageSet
    classes: Classes
    preprocessing: Preprocessing  # of test images, and of training images where a protocol does not vary them


class Session(NamedTuple):
    """How the work is done; but for the seed, nothing here changes a number beyond rounding."""

    accelerator: Accelerator
    seed: int
    bar: tqdm  # counts images; a protocol sets its total
    state: Path | None = None  # a folder of this measurement's own, in which long ones keep what they need to go on; None: not kept


class Measured(NamedTuple):
    """One number: metric "linear_top1", arguments such as {"k": 20}, value a fraction of the test images."""

    metric: str
    arguments: dict[str, Any]
    value: float


class Protocol(ABC):
    """The constants of one evaluation; a frozen dataclass. One that is changed gets a new name: numbers of different names never mix.

    tolerance: how far a number measured again, on another machine, may be from the first (fraction of the images).
    precision: "fp32", or what autocast uses on accelerators; CPUs always compute in float32.
    """

    tolerance: float
    precision: str

    @abstractmethod
    def measure(self, encoder: PreTrainedModel, data: Data, session: Session) -> list[Measured]:
        """Every number of the protocol, in every process. The encoder, on the accelerator's device, is left as it was."""

    def precision_on(self, accelerator: Accelerator) -> str:
        """What networks really compute in when this accelerator measures, as a number's provenance says it: "fp32", "fp16" or "bf16"."""
        return "fp32" if self.precision == "fp32" or accelerator.mixed_precision == "no" else accelerator.mixed_precision


def quiet_session(accelerator: Accelerator, seed: int) -> Session:
    """A session without a progress bar that keeps no state."""
    return Session(accelerator, seed, tqdm(disable=True))
