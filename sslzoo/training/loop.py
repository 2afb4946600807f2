"""The loop: batch, views, loss, backward pass, optimiser step, after_step, log."""

import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel

from sslzoo.data import Batch
from sslzoo.encoders import compiled_parts
from sslzoo.errors import InputError
from sslzoo.method import Method, Progress
from sslzoo.optim import lr_factor, make_optimizer, peak_lr, set_learning_rates
from sslzoo.processes import StopRequest, all_or_none
from sslzoo.recipe import Recipe
from sslzoo.run import Run
from sslzoo.views import Renderer

from .evaluations import Evaluations
from .finish import finish
from .images import load_split_pair
from .logs import Logs
from .states import restore, save, stop
from .told import first_lines, last_lines


class Training:
    """One process's part of a run. What is random follows from the seed, the epoch and the image; so a step number says where it is."""

    def __init__(self, recipe: Recipe, run: Run, accelerator: Accelerator):
        self.recipe, self.run, self.accelerator = recipe, run, accelerator
        self.images, self.data = load_split_pair(recipe, accelerator.device)
        with all_or_none():
            self.micro_batch, self.steps_per_epoch = _divided(recipe, len(self.images), accelerator.num_processes)
        self.steps = self.steps_per_epoch * recipe.epochs
        torch.manual_seed(recipe.seed)
        self.method = _prepared(recipe.make_method(), accelerator, recipe.compile)
        optimizer = make_optimizer(
            self.method.parameter_groups(), recipe.optimizer, recipe.weight_decay, recipe.momentum, recipe.betas, recipe.decay_norm_and_bias
        )
        with warnings.catch_warnings():
            # torch announces another name for broadcast_buffers, which Accelerate's handler does not have yet.
            warnings.simplefilter("ignore", FutureWarning)
            self.model, self.optimizer = accelerator.prepare(self.method, optimizer)
        self.views = recipe.make_views()
        self.renderer = Renderer(list(self.views.values()), recipe.seed, compile=recipe.compile)
        self.step = 0
        self.saved_step = 0  # of the newest checkpoint
        self.seconds = {"all": 0.0, "steps": 0.0}
        self.resumed: list[str] = []  # what was changed at which step
        self.logs = Logs(recipe, run, accelerator)
        self.evaluations = Evaluations(recipe, self.data, self.method, accelerator, self.logs)
        restore(self)
        self.started = time.perf_counter() - self.seconds["all"]
        self.logs.start_trackers(self.step)

    def run_to_end(self) -> None:
        """Trains what is left of the run and finishes it."""
        first_lines(self)
        quiet = not self.accelerator.is_main_process or not sys.stderr.isatty()
        with tqdm(total=self.steps, initial=self.step, desc=self.recipe.name, unit="step", disable=quiet) as bar, StopRequest() as request:
            self.evaluations.measure_if_due(self.step, self.steps_per_epoch, self.steps)
            while self.step < self.steps:
                self._train_epoch(self.step // self.steps_per_epoch, bar, request)
                self.evaluations.measure_if_due(self.step, self.steps_per_epoch, self.steps)
                if self.step % self.recipe.checkpoint_every == 0:
                    save(self)
        finish(self)
        last_lines(self)

    def _train_epoch(self, epoch: int, bar: tqdm, request: StopRequest) -> None:
        recipe, first = self.recipe, self.step % self.steps_per_epoch
        batches = self.images.batches(self._positions(epoch)[first:].flatten(0, 1).unbind())
        begun = time.perf_counter()
        for _ in range(first, self.steps_per_epoch):
            factor = lr_factor(recipe.schedule, self.step, self.steps_per_epoch, recipe.epochs, recipe.warmup_epochs, recipe.final_lr)
            peak = peak_lr(recipe.lr, recipe.lr_scaling, recipe.batch_size)
            set_learning_rates(self.optimizer, peak, factor, epoch)
            views = self._train_step(epoch, batches)
            self.step += 1
            bar.update()
            if self.step % recipe.log_every == 0 or self.step % self.steps_per_epoch == 0:
                spent = time.perf_counter() - begun
                loss = self.logs.write_means(self.step, epoch, peak * factor, spent, self.method.encoder, views[0], self.saved_step)
                self.logs.tell(self.step, self.steps, loss, bar)
                self.seconds["steps"] += spent
                begun = time.perf_counter()
            signal = request.agreed()
            if signal:
                stop(self, signal)
            # At the end of an epoch it waits for the evaluation.
            if self.step % recipe.checkpoint_every == 0 and self.step % self.steps_per_epoch:
                save(self)

    def _train_step(self, epoch: int, batches: Iterator[Batch]) -> list[Tensor]:
        """One optimiser step, over all its micro-batches; reads nothing back from the device. Returns the last micro-batch's views."""
        recipe, outs = self.recipe, []
        for part in range(recipe.accumulate):
            batch = next(batches)
            views = self.renderer(batch.pixels, batch.sizes, batch.samples, epoch)
            crops = partial(self.renderer.crops, batch.sizes, batch.samples, epoch)
            progress = Progress(self.step, self.steps, epoch, recipe.seed, batch.samples, crops)
            last = part + 1 == recipe.accumulate
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                out = self.model(views, progress)
                self.accelerator.backward(out["loss"] / recipe.accumulate)
            outs.append({name: value.detach() for name, value in out.items()})
        if recipe.clip_norm is not None:
            self.accelerator.clip_grad_norm_(self.model.parameters(), recipe.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        merged = {name: torch.cat([out[name] for out in outs]) for name, value in outs[0].items() if value.ndim}
        with torch.no_grad():
            self.method.after_step(merged, progress)
        self.logs.add([{name: value for name, value in out.items() if not value.ndim} for out in outs])
        return views

    def _positions(self, epoch: int) -> Tensor:
        """This process's images, int64 (steps, micro-batches, micro-batch): the same steps on any number of processes."""
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.images), generator=generator)[: self.steps_per_epoch * self.recipe.batch_size]
        processes, rank = self.accelerator.num_processes, self.accelerator.process_index
        return order.view(self.steps_per_epoch, self.recipe.accumulate, processes, self.micro_batch)[:, :, rank]


def _divided(recipe: Recipe, images: int, processes: int) -> tuple[int, int]:
    """Images in a micro-batch of one process, and steps in an epoch. Raises `InputError` for a batch that cannot be divided or filled."""
    if recipe.batch_size % (processes * recipe.accumulate):
        parts = f"{processes} processes with {recipe.accumulate} micro-batches each"
        raise InputError(f"batch_size {recipe.batch_size} cannot be divided over {parts}")
    if recipe.batch_size > images:
        raise InputError(f"batch_size {recipe.batch_size} is more than the {images} images of {recipe.dataset}")
    return recipe.batch_size // processes // recipe.accumulate, images // recipe.batch_size


def _prepared(method: Method, accelerator: Accelerator, compiled: bool) -> Method:
    method = method.to(accelerator.device)
    if accelerator.device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        method = method.to(memory_format=torch.channels_last)
        if accelerator.num_processes > 1:
            method = nn.SyncBatchNorm.convert_sync_batchnorm(method)
    if compiled:
        for encoder in [part for part in method.modules() if isinstance(part, PreTrainedModel) and part is not method]:
            for part in compiled_parts(encoder):
                part.compile()
    return method.train()
