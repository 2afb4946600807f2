"""Training: the one loop, on Accelerate."""

import fcntl
import importlib.util
import math
import resource
import shutil
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as distributed
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel

from sslzoo.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from sslzoo.data import Batch, ImageSet, load_images
from sslzoo.encoders import compiled_parts, features
from sslzoo.errors import InputError, TrainingError
from sslzoo.evaluation import Preprocessing, collapse_signs, data_facts, likely_collapse, make_data, measure, quiet_session
from sslzoo.method import Method, Progress
from sslzoo.optim import lr_factor, make_optimizer, peak_lr, set_learning_rates
from sslzoo.recipe import Recipe, write_recipe
from sslzoo.run import CHECKPOINTS, RECIPE, Run, environment, with_provenance
from sslzoo.views import Renderer

PROTOCOL = "knn-instdisc-v1"
# On the tiny ResNet reading the signs costs 0.24 % of the steps at the default log_every, 1.2 % at every 10 steps.
_SIGN_IMAGES = 256


def train(recipe: Recipe, folder: str | Path, *, resume: bool = False, cpu: bool = False) -> Run:
    """Trains the recipe and leaves a run folder, in every process that Accelerate started; returns the run.

    resume: go on from the newest checkpoint in `folder` that is whole, from the start where there is none. On a CPU the weights are in
        the end those of a run that was never stopped, bit for bit.
    cpu: use the CPU even where there is an accelerator.
    Raises `InputError` for what cannot be used and `TrainingError` when the loss is no longer finite; checkpoints stay.
    """
    run = Run(folder)
    _check_folder(run, recipe, resume)
    if recipe.tracker and importlib.util.find_spec(recipe.tracker) is None:
        raise InputError(f"the tracker '{recipe.tracker}' is not installed: pip install 'sslzoo[{recipe.tracker}]'")
    # What an earlier run in this process has set for good, its precision among it.
    AcceleratorState._reset_state()
    # Without cpu=True, Accelerate does not connect the processes of a launch on a machine that has nothing but CPUs.
    accelerator = Accelerator(
        cpu=cpu or not torch.accelerator.is_available(), mixed_precision="no" if recipe.precision == "fp32" else recipe.precision,
        step_scheduler_with_optimizer=False, kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
        log_with=recipe.tracker, project_dir=run.folder,
    )  # fmt: skip
    if run.results()["training"]:
        return run
    with _locked(run.folder) if accelerator.is_main_process else nullcontext():
        _Training(recipe, run, accelerator, resume).run_to_end()
    return run


class _Training:
    """One process's part of a run. What is random follows from the seed, the epoch and the image; so a step number says where it is."""

    def __init__(self, recipe: Recipe, run: Run, accelerator: Accelerator, resume: bool):
        self.recipe, self.run, self.accelerator = recipe, run, accelerator
        self.images = self._load(recipe.train_split)
        self.preprocessing = Preprocessing(recipe.eval_resize, recipe.eval_crop)
        unmeasured = _unmeasured(recipe, self.images)
        if unmeasured and recipe.test_split is not None and accelerator.is_main_process:
            tqdm.write(f"no evaluation: {unmeasured}", file=sys.stderr)
        measured = recipe.test_split is not None and unmeasured is None
        self.data = make_data(self.images, self._load(recipe.test_split), self.preprocessing) if measured else None
        self.micro_batch = self._micro_batch()
        self.steps_per_epoch = len(self.images) // recipe.batch_size
        if not self.steps_per_epoch:
            raise InputError(f"batch_size {recipe.batch_size} is more than the {len(self.images)} images of {recipe.dataset}")
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
        self.renderer = Renderer(list(recipe.make_views().values()), recipe.seed, compile=recipe.compile)
        self.step = 0
        self.sums: dict[str, Tensor] = {}  # of the logged values since they were last written, on the device
        self.summed = 0
        self.best: dict[str, dict[str, Any]] = {}
        self.seconds = {"all": 0.0, "steps": 0.0}
        self.warned = False  # of a collapse
        checkpoint = load_checkpoint(run.folder / CHECKPOINTS) if resume else None
        if checkpoint is not None:
            self._restore(checkpoint)
        self.saved_step = self.step
        self.started = time.perf_counter() - self.seconds["all"]
        if accelerator.is_main_process:
            write_recipe(recipe, run.folder / RECIPE)
            run.cut_metrics(checkpoint.state["metrics_size"] if checkpoint else 0)
        if recipe.tracker:
            accelerator.init_trackers("sslzoo", config={key: str(value) for key, value in recipe.flat().items()})

    def run_to_end(self) -> None:
        recipe, quiet = self.recipe, not self.accelerator.is_main_process or not sys.stderr.isatty()
        with tqdm(total=self.steps, initial=self.step, desc=recipe.name, unit="step", disable=quiet) as bar:
            while self.step < self.steps:
                epoch = self.step // self.steps_per_epoch
                self._train_epoch(epoch, bar)
                # The last epoch is measured in _finish.
                if self.data is not None and recipe.knn_every and self.step < self.steps and (epoch + 1) % recipe.knn_every == 0:
                    self._evaluate(epoch)
                if self.step % recipe.checkpoint_every == 0:
                    self._save()
        self._finish()

    def _train_epoch(self, epoch: int, bar: tqdm) -> None:
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
                values = {**self._logged_values(), **self._collapse_signs(views[0])}
                speed = self.summed * recipe.batch_size / (time.perf_counter() - begun)
                self._log({"epoch": epoch, "lr": peak * factor, **values, "images_per_second": speed})
                bar.set_postfix(loss=f"{values['loss']:.3f}", refresh=False)
                self.seconds["steps"] += time.perf_counter() - begun
                self.summed, begun = 0, time.perf_counter()
            # At the end of an epoch it waits for the evaluation, which a resumed run would not make up for.
            if self.step % recipe.checkpoint_every == 0 and self.step % self.steps_per_epoch:
                self._save()

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
        for name, value in outs[0].items():
            if not value.ndim:
                mean = torch.stack([out[name] for out in outs]).float().mean()
                self.sums[name] = self.sums[name] + mean if name in self.sums else mean
        self.summed += 1
        return views

    @torch.no_grad()
    def _collapse_signs(self, pixels: Tensor) -> dict[str, float]:
        """Of what the published encoder makes of some images of a view; warns once when they say that it has collapsed."""
        encoder = self.method.published.eval()
        signs = collapse_signs(features(encoder, pixels[:_SIGN_IMAGES]))
        encoder.train()
        values = {name: value.item() for name, value in signs.items()}
        collapse = likely_collapse(values)
        if collapse and not self.warned and self.accelerator.is_main_process:
            tqdm.write(f"warning: {self.recipe.name} has likely collapsed by step {self.step}: {collapse}", file=sys.stderr)
        self.warned = self.warned or collapse is not None
        return values

    def _positions(self, epoch: int) -> Tensor:
        """This process's images, int64 (steps, micro-batches, micro-batch): the same steps on any number of processes."""
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.images), generator=generator)[: self.steps_per_epoch * self.recipe.batch_size]
        processes, rank = self.accelerator.num_processes, self.accelerator.process_index
        return order.view(self.steps_per_epoch, self.recipe.accumulate, processes, self.micro_batch)[:, :, rank]

    def _logged_values(self) -> dict[str, float]:
        """Means since the last time over steps and processes. Raises `TrainingError` where one is not finite."""
        names = sorted(self.sums)
        means = torch.stack([self.sums[name] for name in names]) / self.summed
        values = dict(zip(names, self.accelerator.reduce(means, reduction="mean").tolist(), strict=True))
        self.sums = {}
        for name, value in values.items():
            if not math.isfinite(value):
                kept = f"checkpoints up to step {self.saved_step} are kept" if self.saved_step else "no checkpoint was written yet"
                raise TrainingError(f"{name} is {value} before step {self.step}: a lower lr or clip_norm may help; {kept}")
        return values

    def _evaluate(self, epoch: int) -> list[dict[str, Any]]:
        """kNN on the weights as they are; keeps what is best and writes a line of metrics."""
        self._agree_on_buffers()
        numbers = measure(self.method.published, self.data, PROTOCOL, quiet_session(self.accelerator, self.recipe.seed))
        line: dict[str, Any] = {"epoch": epoch}
        for number in numbers:
            key = f"{number['metric']} k={number['arguments']['k']} T={number['arguments']['temperature']}"
            line[key] = number["value"]
            if key not in self.best or number["value"] > self.best[key]["value"]:
                self.best[key] = {**number, "arguments": {**number["arguments"], "epoch": epoch}}
        self._log(line)
        return numbers

    def _log(self, values: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            self.run.append_metrics({"step": self.step, **values})
        if self.recipe.tracker:
            self.accelerator.log(values, step=self.step)

    def _save(self) -> None:
        """A checkpoint; a full disk costs a warning, not the run."""
        self._agree_on_buffers()
        if self.accelerator.is_main_process:
            self.seconds["all"] = time.perf_counter() - self.started
            state = {
                "step": self.step, "best": self.best, "seconds": self.seconds, "metrics_size": self.run.metrics_size(),
                "sums": {name: value.tolist() for name, value in self.sums.items()}, "summed": self.summed,
            }  # fmt: skip
            optimizer = {"optimizer": self.optimizer.state_dict()}
            if self.accelerator.scaler is not None:
                optimizer["scaler"] = self.accelerator.scaler.state_dict()
            try:
                save_checkpoint(self.run.folder / CHECKPOINTS, self.step, Checkpoint(self.method.state_dict(), optimizer, state))
                self.saved_step = self.step
            except OSError as error:
                tqdm.write(f"warning: no checkpoint at step {self.step}: {error}", file=sys.stderr)
        self.accelerator.wait_for_everyone()

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.method.load_state_dict(checkpoint.tensors)
        self.optimizer.load_state_dict(checkpoint.optimizer["optimizer"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(checkpoint.optimizer["scaler"])
        state = checkpoint.state
        self.step, self.best, self.seconds, self.summed = state["step"], state["best"], state["seconds"], state["summed"]
        self.sums = {name: torch.tensor(value, device=self.accelerator.device) for name, value in state["sums"].items()}

    def _finish(self) -> None:
        """Publishes the weights into the run folder, measures them, and removes the checkpoints."""
        if self.saved_step != self.step:
            self._save()
        device, main = self.accelerator.device, self.accelerator.is_main_process
        if main:
            self.method.save_pretrained(self.run.folder)
            self.preprocessing.write(self.run.folder)
        numbers = self._evaluate(self.recipe.epochs - 1) if self.data is not None else []
        if main:
            trained = self.steps * self.recipe.batch_size
            training = {
                "steps": self.steps, "images": len(self.images), "skipped_images": self.images.skipped,
                "seconds": round(time.perf_counter() - self.started, 1),
                "images_per_second": round(trained / max(self.seconds["steps"], 1e-9), 1),
                "peak_memory_bytes": _peak_memory(device), "processes": self.accelerator.num_processes,
                "environment": environment(device), "files": self.run.digests(),
            }  # fmt: skip
            facts = data_facts(self.data) if numbers else {}
            last = with_provenance(numbers, "last", self.run.weights_sha256, self.recipe.seed, device, facts)
            best = with_provenance(list(self.best.values()), "best", None, self.recipe.seed, device, facts)
            self.run.write_results({"training": training, "numbers": last + best})
            shutil.rmtree(self.run.folder / CHECKPOINTS, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        if self.recipe.tracker:
            self.accelerator.end_training()

    def _agree_on_buffers(self) -> None:
        """Batch norms of different processes see different images; the main process's statistics are the ones that count."""
        if self.accelerator.num_processes > 1:
            for buffer in self.method.buffers():
                distributed.broadcast(buffer, 0)

    def _load(self, split: str) -> ImageSet:
        recipe = self.recipe
        return load_images(
            recipe.dataset, split, image_column=recipe.image_column, label_column=recipe.label_column, canvas=recipe.canvas,
            device=self.accelerator.device, broken_share=recipe.broken_share,
        )  # fmt: skip

    def _micro_batch(self) -> int:
        processes, accumulate = self.accelerator.num_processes, self.recipe.accumulate
        if self.recipe.batch_size % (processes * accumulate):
            parts = f"{processes} processes with {accumulate} micro-batches each"
            raise InputError(f"batch_size {self.recipe.batch_size} cannot be divided over {parts}")
        return self.recipe.batch_size // processes // accumulate


def _unmeasured(recipe: Recipe, images: ImageSet) -> str | None:
    """Why nothing can be measured while training on `images`, although a recipe asks for it without being told to; None where it can."""
    if images.labels is None:
        return f"{recipe.dataset} ({recipe.train_split}) has no labels"
    if recipe.test_split == "test" and len(images.splits) == 1:
        return f"{recipe.dataset} has no split but {images.splits[0]}"
    return None


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


def _check_folder(run: Run, recipe: Recipe, resume: bool) -> None:
    """Refuses to write over another run, and to go on with a changed one. Raises `InputError`."""
    if not (run.folder / RECIPE).exists():
        return
    if not resume:
        raise InputError(f"{run.folder} holds a run already: --resume goes on with it, --output takes another folder")
    before, now = run.recipe.flat(), recipe.flat()
    changed = [f"{key}: {before.get(key)} -> {now.get(key)}" for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
    if changed:
        raise InputError(f"the recipe is not the one of {run.folder} ({'; '.join(changed[:5])}): undo that, or take another --output")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"another process is training in {folder}") from error
        yield
    (folder / ".lock").unlink(missing_ok=True)


def _peak_memory(device: torch.device) -> int:
    """Bytes: of the device where there is one, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024
