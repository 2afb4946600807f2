"""kNN accuracy during training: of the untrained encoder, every few epochs, and of the final weights."""

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

    def is_due(self, step: int, steps_per_epoch: int, steps: int) -> bool:
        """Before the first step and after every `knn_every` epochs, unless a resumed run already measured this step.

        The last epoch is measured by `finish`.
        """
        every = self.recipe.knn_every * steps_per_epoch
        return self.data is not None and every > 0 and step < steps and step % every == 0 and self.measured_step != step

    def measure(self, step: int, epoch: int | None) -> list[dict[str, Any]]:
        """Measures the current weights and logs the numbers. epoch: 0, 1, ..., or None for the untrained encoder, which is never best."""
        self.broadcast_buffers()
        numbers = measure(self.method.encoder, self.data, PROTOCOL, quiet_session(self.accelerator, self.recipe.seed))
        line: dict[str, Any] = {"step": step} if epoch is None else {"step": step, "epoch": epoch}
        for number in numbers:
            key = knn_key(number)
            line[key] = number["value"]
            if epoch is not None and (key not in self.best or number["value"] > self.best[key]["value"]):
                self.best[key] = {**number, "arguments": {**number["arguments"], "epoch": epoch}}
        self.logs.write(line)
        self.measured_step = step
        return numbers

    def broadcast_buffers(self) -> None:
        """Gives all processes the main process's buffers: without sync, each has batch norm statistics of its own images."""
        if self.accelerator.num_processes > 1:
            for buffer in self.method.buffers():
                distributed.broadcast(buffer, 0)


def knn_key(number: dict[str, Any]) -> str:
    """The number's key in metrics.jsonl, "knn_top1 k=20 T=0.1"."""
    return f"{number['metric']} k={number['arguments']['k']} T={number['arguments']['temperature']}"
