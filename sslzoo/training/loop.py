"""The training loop: batch, views, loss, backward, step, after_step, log."""

import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from sslzoo.data import Batch, source_name
from sslzoo.method import Progress
from sslzoo.optim import clip_gradients, lr_factor, peak_lr, set_learning_rates, set_weight_decay, weight_decay_at
from sslzoo.processes import all_or_none
from sslzoo.recipe import Recipe
from sslzoo.run import Run
from sslzoo.stopping import TIME_IS_UP, StopRequest, TimeLimit
from sslzoo.views import Renderer

from .checkpoints import restore, save, save_and_stop
from .console import print_plan, print_summary
from .images import load_split_pair
from .knn_evaluation import KNNEvaluation
from .logs import Logs
from .results import finish
from .setup import compiles, divide_batch, frozen_objects, make_training_method, wrap


class Training:
    """One process's share of a run. All randomness follows from the seed, the epoch and the image, so `step` is the whole position."""

    def __init__(self, recipe: Recipe, run: Run, accelerator: Accelerator, limit: TimeLimit | None = None):
        self.run, self.accelerator, self.limit = run, accelerator, limit
        if limit is not None and accelerator.is_main_process:
            print(f"reading {source_name(recipe.dataset)}", file=sys.stderr, flush=True)  # which may take longer than there is time
        recipe, self.images, self.data = load_split_pair(recipe, accelerator.device)
        self.recipe = recipe
        with all_or_none():
            self.micro_batch_size, self.steps_per_epoch = divide_batch(recipe, len(self.images), accelerator.num_processes)
        self.steps = self.steps_per_epoch * recipe.epochs
        self.method = make_training_method(recipe, accelerator)
        self.model, self.optimizer = wrap(self.method, recipe, accelerator)
        self.views = recipe.make_views()
        self.renderer = Renderer(list(self.views.values()), recipe.seed, compile=compiles(recipe), mean=recipe.mean, std=recipe.std)
        self.step = 0
        self.saved_step = 0  # of the newest checkpoint
        self.seconds = {"all": 0.0, "steps": 0.0}  # and of the last "evaluation", where there is a time limit
        self.resumed: list[str] = []  # which keys were changed at which step
        self.logs = Logs(recipe, run, accelerator)
        self.evaluation = KNNEvaluation(recipe, self.data, self.method, accelerator, self.logs)
        restore(self)
        self.first_step = self.step  # of this process
        self.started = time.perf_counter() - self.seconds["all"]
        self.logs.start_trackers(self.step)

    def run_to_end(self) -> None:
        """Trains the remaining steps and finishes the run."""
        print_plan(self)
        quiet = not self.accelerator.is_main_process or not sys.stderr.isatty()
        bar = tqdm(total=self.steps, initial=self.step, desc=self.recipe.name, unit="step", disable=quiet)
        with bar, StopRequest(self.limit) as request, frozen_objects():
            self._measure_if_due()
            while self.step < self.steps:
                self._train_epoch(self.step // self.steps_per_epoch, bar, request)
                self._measure_if_due()
                if self._is_checkpoint_due():
                    save(self)
        self._stop_unless_time_to_measure()
        finish(self)
        print_summary(self)

    def _measure_if_due(self) -> None:
        if self.evaluation.is_due(self.step, self.steps_per_epoch, self.steps):
            self._stop_unless_time_to_measure()
            began = self.limit.elapsed if self.limit is not None else 0.0
            self.evaluation.measure(self.step, self.step // self.steps_per_epoch - 1 if self.step else None)
            if self.limit is not None:
                self.seconds["evaluation"] = self.limit.elapsed - began

    def _stop_unless_time_to_measure(self) -> None:
        # A call that has trained nothing measures in any case, as the next one would have no more time.
        if self.limit is not None and self.step > self.first_step and not self.limit.all_allow(self.seconds.get("evaluation", 0.0)):
            save_and_stop(self, TIME_IS_UP)

    def _is_checkpoint_due(self) -> bool:
        """After every `checkpoint_every` steps; under a time limit also after the first, which measures how long saving takes."""
        return self.step % self.recipe.checkpoint_every == 0 or (self.limit is not None and self.step == self.first_step + 1)

    def _train_epoch(self, epoch: int, bar: tqdm, request: StopRequest) -> None:
        recipe, first = self.recipe, self.step % self.steps_per_epoch
        batches = self.images.batches(self._positions(epoch)[first:].flatten(0, 1).unbind())
        interval_start = time.perf_counter()
        request.start_steps()
        for _ in range(first, self.steps_per_epoch):
            lr = self._set_schedules(epoch)
            views = self._train_step(epoch, batches)
            self.step += 1
            bar.update()
            if self.step % recipe.log_every == 0 or self.step % self.steps_per_epoch == 0:
                seconds = time.perf_counter() - interval_start
                loss = self.logs.write_means(self.step, epoch, lr, seconds, self.method.encoder, views[0], self.saved_step)
                self.logs.print_progress(self.step, self.steps, loss, bar)
                self.seconds["steps"] += seconds
                interval_start = time.perf_counter()
            reason = request.agreed_reason()
            if reason:
                self.seconds["steps"] += time.perf_counter() - interval_start
                save_and_stop(self, reason)
            # The checkpoint at the end of an epoch is saved after the evaluation.
            if self._is_checkpoint_due() and self.step % self.steps_per_epoch:
                save(self)
                request.start_steps()

    def _train_step(self, epoch: int, batches: Iterator[Batch]) -> list[Tensor]:
        """One optimiser step over all its micro-batches, without a device sync. Returns the last micro-batch's views."""
        recipe, outputs = self.recipe, []
        for micro_batch in range(1, recipe.accumulate + 1):
            batch = next(batches)
            views = self.renderer(batch.pixels, batch.sizes, batch.samples, epoch)
            crops = partial(self.renderer.crops, batch.sizes, batch.samples, self.renderer.words(epoch))
            progress = Progress(self.step, self.steps, epoch, recipe.seed, batch.samples, crops)
            with nullcontext() if micro_batch == recipe.accumulate else self.accelerator.no_sync(self.model):
                output = self.model(views, progress)
                self.accelerator.backward(output["loss"] / recipe.accumulate)
            outputs.append({name: value.detach() for name, value in output.items()})
        self._clip_gradients()
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            rows = {name: torch.cat([output[name] for output in outputs]) for name, value in outputs[0].items() if value.ndim}
            self.method.after_step(rows, progress)
        self.logs.add([{name: value for name, value in output.items() if not value.ndim} for output in outputs])
        return views

    def _clip_gradients(self) -> None:
        recipe = self.recipe
        if recipe.clip_norm is not None and recipe.clip == "global":
            self.accelerator.clip_grad_norm_(self.model.parameters(), recipe.clip_norm)
        elif recipe.clip_norm is not None:
            self.accelerator.unscale_gradients(self.optimizer)
            clip_gradients(self.optimizer, recipe.clip, recipe.clip_norm)

    def _set_schedules(self, epoch: int) -> float:
        """Sets learning rates and weight decay of the next step; returns the learning rate of a parameter group with factor 1."""
        recipe = self.recipe
        factor = lr_factor(
            recipe.schedule, self.step, self.steps_per_epoch, recipe.epochs, recipe.warmup_epochs, recipe.final_lr, recipe.warmup_lr
        )
        if recipe.weight_decay_end is not None:
            set_weight_decay(self.optimizer, weight_decay_at(recipe.weight_decay, recipe.weight_decay_end, self.step, self.steps))
        peak = peak_lr(recipe.lr, recipe.lr_scaling, recipe.batch_size)
        set_learning_rates(self.optimizer, peak, factor, epoch)
        return peak * factor

    def _positions(self, epoch: int) -> Tensor:
        """This process's images, int64 (steps, micro-batches, micro-batch). A step has the same images on any number of processes."""
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.images), generator=generator)[: self.steps_per_epoch * self.recipe.batch_size]
        processes, rank = self.accelerator.num_processes, self.accelerator.process_index
        return order.view(self.steps_per_epoch, self.recipe.accumulate, processes, self.micro_batch_size)[:, :, rank]
