"""kNN accuracy during training: of the untrained encoder, every few epochs, and of the final weights.

The epochs are measured in the run's own precision, by a protocol named after it; the untrained encoder and the final weights in float32.
The best epoch is that of the epochs' own protocol: numbers of two protocols are never compared.
"""

from typing import Any

import torch.distributed as distributed
from accelerate import Accelerator

from sslzoo.evaluation import Data, measure, quiet_session
from sslzoo.method import Method
from sslzoo.recipe import Recipe

from .logs import Logs

PROTOCOL = "knn-instdisc-v2"


class KNNEvaluation:
    """best: each number of its best epoch. measured_step: the step that was measured last, -1 before the first."""

    def __init__(self, recipe: Recipe, data: Data | None, method: Method, accelerator: Accelerator, logs: Logs):
        self.recipe, self.data, self.method, self.accelerator, self.logs = recipe, data, method, accelerator, logs
        self.best: dict[str, dict[str, Any]] = {}
        self.measured_step = -1

    @property
    def epoch_protocol(self) -> str:
        """By which the epochs are measured."""
        for number in self.best.values():
            return number["protocol"]  # a run goes on as it began, one from before epochs had protocols of their own too
        return PROTOCOL if self.recipe.precision == "fp32" else f"knn-instdisc-{self.recipe.precision}-v2"

    def is_due(self, step: int, steps_per_epoch: int, steps: int) -> bool:
        """Before the first step and after every `knn_every` epochs, unless a resumed run already measured this step.

        The last epoch is measured by `finish`.
        """
        every = self.recipe.knn_every * steps_per_epoch
        return self.data is not None and every > 0 and step < steps and step % every == 0 and self.measured_step != step

    def measure(self, step: int, epoch: int | None) -> list[dict[str, Any]]:
        """Measures the current weights and logs the numbers. epoch: 0, 1, ..., or None for the untrained encoder, which is never best."""
        numbers = self._measure(PROTOCOL if epoch is None else self.epoch_protocol, step, epoch)
        for number in numbers if epoch is not None else ():
            key = knn_key(number)
            if key not in self.best or number["value"] > self.best[key]["value"]:
                self.best[key] = {**number, "arguments": {**number["arguments"], "epoch": epoch}}
        return numbers

    def measure_final(self, step: int, epoch: int) -> list[dict[str, Any]]:
        """Measures the final weights as the last epoch, and in float32 if that was not; logs both and returns the numbers in float32."""
        numbers = self.measure(step, epoch)
        return numbers if self.epoch_protocol == PROTOCOL else self._measure(PROTOCOL, step, None)

    def _measure(self, protocol: str, step: int, epoch: int | None) -> list[dict[str, Any]]:
        self.broadcast_buffers()
        numbers = measure(self.method.encoder, self.data, protocol, quiet_session(self.accelerator, self.recipe.seed))
        when = {"step": step} if epoch is None else {"step": step, "epoch": epoch}
        self.logs.write(when | {knn_key(number): number["value"] for number in numbers})
        self.measured_step = step
        return numbers

    def broadcast_buffers(self) -> None:
        """Gives all processes the main process's buffers: without sync, each has batch norm statistics of its own images."""
        if self.accelerator.num_processes > 1:
            for buffer in self.method.buffers():
                distributed.broadcast(buffer, 0)


def knn_key(number: dict[str, Any]) -> str:
    """The number's key in metrics.jsonl: "knn_top1 k=20 T=0.1", with the protocol behind it where that is not `PROTOCOL`."""
    arguments = number["arguments"]
    key = f"{number['metric']} k={arguments.get('k')} T={arguments.get('temperature')}"
    return key if number["protocol"] == PROTOCOL else f"{key} {number['protocol']}"
