"""What is logged while training: means of the losses, signs of collapse, speed; to metrics.jsonl, trackers and the terminal."""

import logging
import math
import sys
import time
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from sslzoo.encoders import features
from sslzoo.errors import TrainingError, first_line
from sslzoo.evaluation import collapse_signs, likely_collapse
from sslzoo.recipe import Recipe
from sslzoo.run import Run

# On the tiny ResNet reading the signs costs 0.24 % of the steps at the default log_every, 1.2 % at every 10 steps.
_SIGN_IMAGES = 256
_TOLD_EVERY = 60  # seconds between two lines where there is no terminal for a bar
_log = logging.getLogger(__name__)


class Logs:
    """The logged values of one process.

    sums: of the scalars of `loss` since they were last written, on the device. summed: over how many steps.
    collapse: what the last signs said, in words; None while they are well.
    """

    def __init__(self, recipe: Recipe, run: Run, accelerator: Accelerator):
        self.recipe, self.run, self.accelerator = recipe, run, accelerator
        self.sums: dict[str, Tensor] = {}
        self.summed = 0
        self.collapse: str | None = None
        self._warned: set[str] = set()  # what a warning has already been given for
        self._told = self._told_first = time.monotonic()
        self._first_step: int | None = None

    def add(self, micro_batches: list[dict[str, Tensor]]) -> None:
        """Takes in the scalars of one step, their mean over its micro-batches; reads nothing back from the device."""
        for name in micro_batches[0]:
            mean = torch.stack([values[name] for values in micro_batches]).float().mean()
            self.sums[name] = self.sums[name] + mean if name in self.sums else mean
        self.summed += 1

    def shared_sums(self) -> dict[str, float]:
        """The sums, their mean over the processes: what a checkpoint holds for each of them."""
        return self._shared(self.sums)

    def write_means(
        self, step: int, epoch: int, lr: float, seconds: float, encoder: PreTrainedModel, pixels: Tensor, saved_step: int
    ) -> float:
        """Logs the means since the last time over steps and processes, and the signs of collapse; returns that of the loss.

        seconds: that the steps took. pixels: of a view, what the signs are read from. Raises `TrainingError`, in all processes alike,
        where a value is not finite.
        """
        summed = self.summed
        values = self._shared({**{name: value / summed for name, value in self.sums.items()}, **_signs(encoder, pixels)})
        self.sums, self.summed = {}, 0
        for name, value in values.items():
            if not math.isfinite(value):
                kept = f"checkpoints up to step {saved_step} are kept" if saved_step else "no checkpoint was written yet"
                raise TrainingError(f"{name} is {value} before step {step}: a lower lr or clip_norm may help; {kept}")
        self._watch(values, step)
        speed = summed * self.recipe.batch_size / seconds
        self.write({"step": step, "epoch": epoch, "lr": lr, **values, "images_per_second": speed})
        return values["loss"]

    def write(self, values: dict[str, Any]) -> None:
        """A line of metrics.jsonl, and the trackers' values. A full disk or a tracker that fails costs a warning, not the run."""
        if self.accelerator.is_main_process:
            try:
                self.run.append_metrics(values)
            except OSError as error:
                self._warn_once("metrics.jsonl", error)
        if self.recipe.tracker:
            try:
                self.accelerator.log({key: value for key, value in values.items() if key != "step"}, step=values["step"])
            except Exception as error:  # trackers raise kinds of their own
                self._warn_once(self.recipe.tracker, error)

    def tell(self, step: int, steps: int, loss: float, bar: tqdm) -> None:
        """Loss and speed in the bar; without a terminal, a line a minute."""
        bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        now = time.monotonic()
        if self._first_step is None:
            self._first_step, self._told_first, self._told = step, now, now
            return
        if not self.accelerator.is_main_process or not bar.disable or now - self._told < _TOLD_EVERY:
            return
        self._told = now
        seconds = (now - self._told_first) / (step - self._first_step)
        speed, left = f"{self.recipe.batch_size / seconds:,.0f} images/s", _clock((steps - step) * seconds)
        print(f"step {step:,} of {steps:,}  loss {loss:.3f}  {speed}  {left} left", file=sys.stderr, flush=True)

    def start_trackers(self, step: int) -> None:
        """Starts the tracker; values that an earlier process has logged behind `step` are taken back where it can do that."""
        if self.recipe.tracker:
            config = {key: str(value) for key, value in self.recipe.flat().items()}
            self.accelerator.init_trackers("sslzoo", config=config, init_kwargs={"tensorboard": {"purge_step": step + 1}})

    def end_trackers(self) -> None:
        """Lets the tracker write what it holds."""
        if self.recipe.tracker:
            self.accelerator.end_training()

    def _shared(self, values: dict[str, Tensor]) -> dict[str, float]:
        """Means over the processes, read from the device at once."""
        if not values:
            return {}
        means = self.accelerator.reduce(torch.stack([value.float() for value in values.values()]), reduction="mean")
        return dict(zip(values, means.tolist(), strict=True))

    def _watch(self, values: dict[str, float], step: int) -> None:
        """Warns once when the signs say that the published encoder has collapsed."""
        self.collapse = likely_collapse(values)
        if self.collapse and "collapse" not in self._warned and self.accelerator.is_main_process:
            self._warned.add("collapse")
            tqdm.write(f"warning: {self.recipe.name} has likely collapsed by step {step}: {self.collapse}", file=sys.stderr)

    def _warn_once(self, what: str, error: Exception) -> None:
        if what not in self._warned:
            self._warned.add(what)
            _log.warning("the run goes on without lines of %s: %s", what, first_line(error))


@torch.no_grad()
def _signs(encoder: PreTrainedModel, pixels: Tensor) -> dict[str, Tensor]:
    signs = collapse_signs(features(encoder.eval(), pixels[:_SIGN_IMAGES]))
    encoder.train()
    return signs


def _clock(seconds: float) -> str:
    """ "45 s", "12 min", "3 h 20 min" """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
