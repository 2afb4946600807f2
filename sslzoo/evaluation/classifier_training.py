"""The training loop of a classifier protocol, with a test after every epoch."""

import logging
import math
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import torch
import torch.distributed as distributed
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from sslzoo.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from sslzoo.data import Batch
from sslzoo.encoders import blocks, drop_path
from sslzoo.errors import InputError, TrainingError, first_line
from sslzoo.optim import ParameterGroup, decay_groups, lr_factor, make_optimizer, peak_lr, set_learning_rates
from sslzoo.processes import all_or_none, broadcast_from_main
from sslzoo.stopping import TIME_IS_UP, StopRequest, stopped_by
from sslzoo.views import TrainingCrops, View, hash_words, uniform

from .classifier_network import ClassifierNetwork
from .evaluation_data import Data
from .features import inference_batch_size
from .layer_decay import layer_groups
from .metrics import top_counts
from .mixing import mix
from .protocol import Session

if TYPE_CHECKING:
    from .classifier_protocol import ClassifierProtocol

_DROP_PATH = -5  # the last key of its random numbers; views use their index, augmentations -2 to -4
_log = logging.getLogger(__name__)


class ClassifierTraining:
    """One process's share. All randomness follows from the seed, the epoch, the step and the image, so that a step can be repeated.

    step: training steps done. history: of each tested epoch, how many test images were classified correctly, {"top1": 412, "top5": 480}.
    """

    def __init__(self, protocol: "ClassifierProtocol", encoder: PreTrainedModel, data: Data, session: Session):
        self.protocol, self.data, self.session = protocol, data, session
        self.limit = session.limit if session.state else None
        self.batch_size = min(protocol.batch_size, len(data.train))
        self.steps_per_epoch = len(data.train) // self.batch_size
        if self.batch_size < 2 * session.accelerator.num_processes:
            raise InputError(
                f"{len(data.train)} training images are too few for {session.accelerator.num_processes} processes: take fewer processes"
            )
        accelerator, size = session.accelerator, data.preprocessing.crop
        with all_or_none():
            self.network = ClassifierNetwork(
                encoder, data.classes.count, trains_encoder=protocol.trains_encoder, batch_norm=protocol.batch_norm, seed=session.seed
            )
            if protocol.trains_encoder:
                self.network.freeze_unused(size)
                if accelerator.device.type == "cuda" and accelerator.num_processes > 1:
                    self.network = nn.SyncBatchNorm.convert_sync_batchnorm(self.network)
            optimizer = make_optimizer(
                self._parameter_groups(), protocol.optimizer, protocol.weight_decay, protocol.momentum, protocol.betas,
                decay_norm_and_bias=False,
            )  # fmt: skip
        self.model, self.optimizer = accelerator.prepare(self.network, optimizer)
        view = View(size, scale=protocol.scale, ratio=protocol.ratio, interpolation=protocol.interpolation)
        mean, std = data.preprocessing.mean, data.preprocessing.std
        self.crops = TrainingCrops(view, session.seed, protocol.rand_augment, protocol.erasing, mean, std)
        self.step = 0
        self.test_seconds = 0.0  # of the last test, where there is a time limit
        self.history: list[dict[str, int]] = []
        checkpoint = broadcast_from_main(lambda: load_checkpoint(session.state)) if session.state else None
        if checkpoint is not None:
            self._restore(checkpoint)
        self.first_step = self.step  # of this process

    def run_to_end(self) -> list[dict[str, int]]:
        """Trains and tests the remaining epochs; returns the history."""
        protocol, bar = self.protocol, self.session.bar
        images = self.steps_per_epoch * self.batch_size + len(self.data.test)
        bar.reset(total=protocol.epochs * images)
        bar.update(self.step * self.batch_size + len(self.history) * len(self.data.test))
        # Without a state there is nothing to continue from: Ctrl-C interrupts at once.
        with StopRequest(self.limit) if self.session.state else nullcontext() as request:
            for epoch in range(len(self.history), protocol.epochs):
                with self._own_random_state():
                    self._train_epoch(epoch, request)
                if self.limit is not None and self.step > self.first_step and not self.limit.all_allow(self.test_seconds):
                    self._save_and_stop(TIME_IS_UP, epoch)
                began = self.limit.elapsed if self.limit is not None else 0.0
                self.history.append(self._test())
                self.test_seconds = self.limit.elapsed - began if self.limit is not None else 0.0
                bar.set_postfix(epoch=epoch, top1=f"{self.history[-1]['top1'] / len(self.data.test):.4f}", refresh=False)
                if self.session.state:
                    self._save()
        if self.session.state and self.session.accelerator.is_main_process:
            shutil.rmtree(self.session.state, ignore_errors=True)
        return self.history

    def _train_epoch(self, epoch: int, request: StopRequest | None) -> None:
        protocol, accelerator = self.protocol, self.session.accelerator
        peak = peak_lr(protocol.lr, "batch/256", self.batch_size)
        self.model.train()
        total = torch.zeros((), device=accelerator.device)
        if request is not None:
            request.start_steps()
        for batch in self.data.train.batches(islice(self._positions(epoch), self.step - epoch * self.steps_per_epoch, None)):
            factor = lr_factor(
                "cosine_per_step", self.step, self.steps_per_epoch, protocol.epochs, protocol.warmup_epochs, protocol.final_lr
            )
            set_learning_rates(self.optimizer, peak, factor, epoch)
            total += self._train_step(batch, epoch, self.step)
            self.step += 1
            self.session.bar.update(self.batch_size)
            reason = request.agreed_reason() if request is not None else 0
            if reason:
                self._check_finite(total)
                self._save_and_stop(reason, epoch)
            if request is not None and self.limit is not None and self.step == self.first_step + 1:
                self._save()  # which measures how long it takes
                request.start_steps()
        self._check_finite(total)

    def _check_finite(self, total: Tensor) -> None:
        """Raises `TrainingError` in all processes if the summed loss of any is not finite."""
        loss = self.session.accelerator.reduce(total, reduction="mean").item() / self.steps_per_epoch
        if not math.isfinite(loss):
            name = self.protocol.name
            raise TrainingError(f"{name}: the loss is {loss} before step {self.step}, so nothing can be measured with this encoder")

    def _train_step(self, batch: Batch, epoch: int, step: int) -> Tensor:
        """One optimiser step without a device sync. Returns the loss."""
        protocol, accelerator, seed = self.protocol, self.session.accelerator, self.session.seed
        torch.manual_seed(seed * 1_000_003 + step * accelerator.num_processes + accelerator.process_index)  # for an encoder's dropout
        images, targets = self.crops(batch.pixels, batch.sizes, batch.samples, epoch), batch.labels
        if protocol.mixup or protocol.cutmix or protocol.smoothing:
            images, targets = mix(
                images, targets, self.data.classes.count, mixup=protocol.mixup, cutmix=protocol.cutmix, smoothing=protocol.smoothing,
                draw=np.random.default_rng((seed, step)),  # the same in every process
            )  # fmt: skip
        with self._drop_path(batch.samples, epoch):
            logits = self.model(images)
        # DDP averages gradients over processes, which may have different numbers of images.
        loss = F.cross_entropy(logits, targets, reduction="sum") * (accelerator.num_processes / self.batch_size)
        accelerator.backward(loss)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()

    @torch.no_grad()
    def _test(self) -> dict[str, int]:
        """How many of all test images are classified correctly."""
        data, accelerator = self.data, self.session.accelerator
        self._broadcast_buffers()
        self.network.eval()
        label_of_test = data.classes.of_test.to(accelerator.device)
        # All zero, which is what a process without test images contributes.
        correct = top_counts(torch.zeros(0, data.classes.count), torch.zeros(0, dtype=torch.int64))
        positions = self._own_share(torch.arange(len(data.test)))
        batch_size = inference_batch_size(accelerator.device, data.preprocessing.crop)
        with all_or_none():
            for _, batch in data.test.read(positions, batch_size) if len(positions) else ():
                logits = self.network(data.preprocessing(batch.pixels, batch.sizes))
                for name, count in top_counts(logits, label_of_test[batch.labels]).items():
                    correct[name] += count
                self.session.bar.update(len(logits) * accelerator.num_processes)
        total = accelerator.reduce(torch.tensor(list(correct.values()), device=accelerator.device), reduction="sum")
        return dict(zip(correct, total.tolist(), strict=True))

    def _parameter_groups(self) -> list[ParameterGroup]:
        encoder, layer_decay = self.network.encoder, self.protocol.layer_decay
        groups = decay_groups(encoder) if layer_decay is None else layer_groups(encoder, layer_decay)
        return [*groups, ParameterGroup(list(self.network.classifier.parameters()), decay=False)]

    def _own_random_state(self) -> AbstractContextManager:
        """Restores the state of torch's global generators, which each step seeds, afterwards."""
        device = self.session.accelerator.device
        return torch.random.fork_rng([device] if device.type == "cuda" else [])

    def _drop_path(self, samples: Tensor, epoch: int) -> AbstractContextManager:
        encoder, rate = self.network.encoder, self.protocol.drop_path
        if not rate:
            return nullcontext()
        words = torch.tensor(hash_words(self.session.seed, epoch, _DROP_PATH))
        return drop_path(encoder, rate, uniform(samples, 2 * len(blocks(encoder)), words))

    def _positions(self, epoch: int) -> Iterator[Tensor]:
        """This process's images at each step. A step has the same images on any number of processes.

        `mix` pairs the first image of a batch with the last, the second with the last but one, and so on: a pair stays in one process.
        """
        generator = torch.Generator().manual_seed(self.session.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.data.train), generator=generator)
        first = self._own_share(torch.arange(-(-self.batch_size // 2)))
        last = self.batch_size - 1 - first.flip(0)
        own = torch.cat([first, last[last > first[-1:]]])
        return (batch[own] for batch in order.split(self.batch_size)[: self.steps_per_epoch])

    def _own_share(self, positions: Tensor) -> Tensor:
        accelerator = self.session.accelerator
        return positions.tensor_split(accelerator.num_processes)[accelerator.process_index]

    def _broadcast_buffers(self) -> None:
        """Gives all processes the main process's buffers: without sync, each has batch norm statistics of its own images."""
        if self.session.accelerator.num_processes > 1:
            for buffer in self.network.buffers():
                distributed.broadcast(buffer, 0)

    def _save_and_stop(self, reason: int, epoch: int) -> NoReturn:
        self._save()
        raise stopped_by(reason, f"in epoch {epoch + 1} of {self.protocol.epochs} of {self.protocol.name}: the same command continues")

    def _save(self) -> None:
        """Writes a checkpoint. A full disk costs a warning, not the measurement."""
        accelerator = self.session.accelerator
        state = {"history": self.history, "step": self.step, "test_seconds": self.test_seconds}
        with all_or_none():
            if accelerator.is_main_process:
                optimizer = {"optimizer": self.optimizer.state_dict()}
                if accelerator.scaler is not None:
                    optimizer["scaler"] = accelerator.scaler.state_dict()
                checkpoint = Checkpoint(self.network.trained.state_dict(), optimizer, state)
                try:
                    with self.limit.measuring_saving() if self.limit is not None else nullcontext():
                        save_checkpoint(self.session.state, self.step, checkpoint)
                except OSError as error:
                    _log.warning("no checkpoint of %s in %s: %s", self.protocol.name, self.session.state, first_line(error))

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.network.trained.load_state_dict(checkpoint.tensors)
        self.optimizer.load_state_dict(checkpoint.optimizer["optimizer"])
        if self.session.accelerator.scaler is not None:
            self.session.accelerator.scaler.load_state_dict(checkpoint.optimizer["scaler"])
        self.history, self.step, self.test_seconds = (checkpoint.state[key] for key in ("history", "step", "test_seconds"))
