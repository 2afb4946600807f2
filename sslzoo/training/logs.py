"""Logging during training: mean losses, signs of collapse and speed, to metrics.jsonl, trackers and the terminal."""

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
from sslzoo.errors import InputError, TrainingError, first_line
from sslzoo.evaluation import collapse_metrics, collapse_warning
from sslzoo.recipe import Recipe
from sslzoo.run import Run

# On the tiny ResNet the collapse metrics take 0.24 % of the training time at the default log_every, 1.2 % at every 10 steps.
_COLLAPSE_IMAGES = 256
_PRINT_SECONDS = 60  # between two progress lines, if there is no terminal for a bar
# Each tracker's own word for the name of a run inside a project.
_RUN_NAMES = {"trackio": "name", "wandb": "name", "mlflow": "run_name", "swanlab": "experiment_name", "clearml": "task_name"}
_log = logging.getLogger(__name__)


class Logs:
    """One process's logged values.

    sums: of the scalars that `loss` returned since the last line, on the device. summed_steps: how many steps they cover.
    collapse: the last `collapse_warning` in the main process, None while there is none.
    """

    def __init__(self, recipe: Recipe, run: Run, accelerator: Accelerator):
        self.recipe, self.run, self.accelerator = recipe, run, accelerator
        self.sums: dict[str, Tensor] = {}
        self.summed_steps = 0
        self.collapse: str | None = None
        self._at_start: dict[str, float] | None = None  # the run's first collapse metrics
        self._warned: set[str] = set()  # sources and kinds of warnings that were already given
        self._last_print = self._first_print = time.monotonic()
        self._first_step: int | None = None

    def add(self, micro_batches: list[dict[str, Tensor]]) -> None:
        """Adds the scalars of one step, averaged over its micro-batches, without a device sync."""
        for name in micro_batches[0]:
            mean = torch.stack([values[name] for values in micro_batches]).float().mean()
            self.sums[name] = self.sums[name] + mean if name in self.sums else mean
        self.summed_steps += 1

    def mean_sums(self) -> dict[str, float]:
        """The sums averaged over the processes: what a checkpoint stores, for each process to resume from."""
        return self._mean_over_processes(self.sums)

    def write_means(
        self, step: int, epoch: int, lr: float, seconds: float, encoder: PreTrainedModel, pixels: Tensor, saved_step: int
    ) -> float:
        """Logs means over the steps since the last line and over the processes, and the collapse metrics; returns the mean loss.

        seconds: how long these steps took. pixels: one view, (n, 3, size, size), for the collapse metrics. Raises `TrainingError`, in
        all processes, if a value is not finite.
        """
        steps = self.summed_steps
        means = {name: value / steps for name, value in self.sums.items()}
        values = self._mean_over_processes({**means, **_collapse_metrics(encoder, pixels)})
        self.sums, self.summed_steps = {}, 0
        for name, value in values.items():
            if not math.isfinite(value):
                kept = f"checkpoints up to step {saved_step} are kept" if saved_step else "no checkpoint was written yet"
                raise TrainingError(f"{name} is {value} before step {step}: a lower lr or clip_norm may help; {kept}")
        self._warn_of_collapse(values, step)
        speed = steps * self.recipe.batch_size / seconds
        self.write({"step": step, "epoch": epoch, "lr": lr, **values, "images_per_second": speed})
        return values["loss"]

    def write(self, values: dict[str, Any]) -> None:
        """Writes a line of metrics.jsonl and sends it to the tracker. A full disk or a failing tracker costs a warning, not the run."""
        if self.accelerator.is_main_process:
            try:
                self.run.append_metrics(values)
            except OSError as error:
                self._warn_once("metrics.jsonl", error)
        if self.recipe.tracker:
            try:
                self.accelerator.log({key: value for key, value in values.items() if key != "step"}, step=values["step"])
            except Exception as error:  # each tracker raises its own kinds
                self._warn_once(self.recipe.tracker, error)

    def print_progress(self, step: int, steps: int, loss: float, bar: tqdm) -> None:
        """Shows loss and speed in the progress bar; without a terminal, prints a line a minute."""
        bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        now = time.monotonic()
        if self._first_step is None:
            self._first_step, self._first_print, self._last_print = step, now, now
            return
        if not self.accelerator.is_main_process or not bar.disable or now - self._last_print < _PRINT_SECONDS:
            return
        self._last_print = now
        seconds = (now - self._first_print) / (step - self._first_step)
        speed, remaining = f"{self.recipe.batch_size / seconds:,.0f} images/s", _duration((steps - step) * seconds)
        print(f"step {step:,} of {steps:,}  loss {loss:.3f}  {speed}  {remaining} left", file=sys.stderr, flush=True)

    def start_trackers(self, step: int) -> None:
        """Starts the tracker in its project "sslzoo"; one that cannot start costs a warning.

        Values that were logged after `step` before the run was interrupted are discarded if the tracker can.
        """
        tracker, name = self.recipe.tracker, self.run.folder.absolute().name
        if tracker:
            arguments = {_RUN_NAMES[tracker]: name} if tracker in _RUN_NAMES else {}
            arguments |= {"tensorboard": {"purge_step": step + 1}, "trackio": {"resume": "allow" if step else "never"}}.get(tracker, {})
            config = {key: str(value) for key, value in self.recipe.flat().items()}
            try:
                self.accelerator.init_trackers("sslzoo", config=config, init_kwargs={tracker: arguments})
            except Exception as error:
                self.accelerator.trackers = []
                self._warn_once(tracker, error)

    def end_trackers(self) -> None:
        """Lets the tracker flush and close."""
        # Not Accelerate's end_training, which also disconnects the processes: an evaluation may follow.
        for tracker in self.accelerator.trackers:
            try:
                tracker.finish()
            except Exception as error:
                self._warn_once(str(self.recipe.tracker), error)

    def _mean_over_processes(self, values: dict[str, Tensor]) -> dict[str, float]:
        """All values with one reduction and one device sync."""
        if not values:
            return {}
        means = self.accelerator.reduce(torch.stack([value.float() for value in values.values()]), reduction="mean")
        return dict(zip(values, means.tolist(), strict=True))

    def _warn_of_collapse(self, values: dict[str, float], step: int) -> None:
        """Warns once if the published encoder has likely collapsed.

        Not at the first measurement: with LayerScale's 1e-5 all images have nearly the same features at the start.
        """
        if not self.accelerator.is_main_process:
            return
        if self._at_start is None:
            try:
                self._at_start = next((line for line in self.run.metrics() if "feature_std" in line), values)
            except InputError:  # nothing was logged yet, or it cannot be read
                self._at_start = values
        self.collapse = collapse_warning(values, self._at_start)
        if self.collapse and values is not self._at_start and "collapse" not in self._warned:
            self._warned.add("collapse")
            tqdm.write(f"warning: {self.recipe.name} has likely collapsed by step {step}: {self.collapse}", file=sys.stderr)

    def _warn_once(self, target: str, error: Exception) -> None:
        if target not in self._warned:
            self._warned.add(target)
            _log.warning("cannot log to %s, the run continues: %s", target, first_line(error))


@torch.no_grad()
def _collapse_metrics(encoder: PreTrainedModel, pixels: Tensor) -> dict[str, Tensor]:
    metrics = collapse_metrics(features(encoder.eval(), pixels[:_COLLAPSE_IMAGES]))
    encoder.train()
    return metrics


def _duration(seconds: float) -> str:
    """ "45 s", "12 min", "3 h 20 min" """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
