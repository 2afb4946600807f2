"""A linear classifier trained behind an encoder: behind its frozen features, or together with it.

The protocols are those behind the reference page's ImageNet rows; the names say whose they are for the most part.

"linear-simclr-v1", "finetune-simclr-v1" (arXiv:2002.05709): the page's for ResNets. SimCLR itself has Nesterov momentum, zero initial
    weights and batches of 4,096, and gives the last epoch.
"linear-mae-v1" (arXiv:2111.06377): the page's for ViTs. MAE itself trains with LARS, which adapts the step of every matrix; the page's
    LARS adapts nothing that has no weight decay, and the classifier has none: that is SGD with momentum, and here called so.
"finetune-mae-v1": as MAE has it, with the decay over layers and drop path; the page's 81.3 was measured with both inactive.
"""

import copy
import logging
import math
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as distributed
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from sslzoo.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from sslzoo.data import Batch, without_broken
from sslzoo.encoders import blocks, depths, drop_path, feature_width, features
from sslzoo.errors import InputError, TrainingError, first_line
from sslzoo.optim import ParameterGroup, decay_groups, lr_factor, make_optimizer, peak_lr, set_learning_rates
from sslzoo.processes import all_or_none, broadcast_from_main
from sslzoo.views import RandAugment, RandomErasing, TrainingCrops, View, uniform

from .metrics import accuracy, top_counts
from .mixing import mix
from .protocol import Data, Measured, Protocol, Session

_DROP_PATH = -5  # the last key of its random numbers, where views have their index and what changes views has -2 to -4
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClassifierProtocol(Protocol):
    """How a classifier is trained on random crops of the training images, and tested on whole test images after every epoch.

    Reported are the last epoch's accuracies, and the best epoch's, of top-1 and top-5 each for itself: chosen on the test images, and so
    too good by nature, but that is what papers and reference tables give.

    name: of the protocol.
    trains_encoder: a copy of the encoder is trained too (fine-tuning), in training mode: batch norms use the batch and move their
        statistics. Else it is frozen, in evaluation mode.
    batch_norm: features are normalised by a batch norm without weights before the linear layer, which starts as torch's linear layers do.
    lr: learning rate for 256 images a step; it grows with the batch. Cosine at each step, behind the warm-up, down to final_lr of the peak.
    weight_decay: not of norms, biases, tokens, positions and the classifier.
    batch_size: images a step, of all processes together; what an epoch has beyond whole batches is left out. A set of fewer images is one
        batch.
    precision: "fp16" scales the loss, too. It is the accelerator's: the session brings one that was made with it.
    scale, ratio, interpolation: of the crops. They are flipped half of the time.
    mixup, cutmix: of the beta distributions from which it is drawn how much of another image is mixed in; 0: none.
    smoothing: how much of the label goes to all classes alike.
    layer_decay: the learning rate of each layer as a factor of the next one's (BEiT, arXiv:2106.08254), None: all alike.
    drop_path: the chance to leave out a residual branch of the last block (see `sslzoo.encoders.drop_path`).

    Several processes give the numbers of one up to rounding. Only batch norms of an encoder that is trained see, on CPUs, just their own
    process's images.
    """

    name: str
    trains_encoder: bool
    epochs: int
    lr: float
    tolerance: float
    batch_norm: bool = False
    optimizer: str = "sgd"
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    batch_size: int = 256
    warmup_epochs: int = 0
    final_lr: float = 0.001
    precision: str = "fp16"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: str = "bilinear"
    rand_augment: RandAugment | None = None
    erasing: RandomErasing | None = None
    mixup: float = 0.0
    cutmix: float = 0.0
    smoothing: float = 0.0
    layer_decay: float | None = None
    drop_path: float = 0.0

    def measure(self, encoder: PreTrainedModel, data: Data, session: Session) -> list[Measured]:
        """ "linear_top1" or "finetune_top1", and top5 from six classes on, of the last epoch and of the best.

        arguments: {"of": "last epoch"}, or {"of": "best epoch", "selected_epoch": 57}, counted from 0.
        Raises `InputError` for encoders that the protocol cannot train, `TrainingError` when the loss is no longer finite.
        """
        # Every process counts on the same images, whether they are resident or streamed.
        data = data._replace(train=without_broken(data.train), test=without_broken(data.test))
        history = _Training(self, encoder, data, session).run_to_end()
        kind = "finetune" if self.trains_encoder else "linear"
        chosen = []
        for name in history[-1]:
            best = max(range(len(history)), key=lambda epoch: history[epoch][name])  # the first of several
            chosen.append((name, {"of": "last epoch"}, history[-1][name]))
            chosen.append((name, {"of": "best epoch", "selected_epoch": best}, history[best][name]))
        return [Measured(f"{kind}_{name}", arguments, accuracy([correct], [len(data.test)])) for name, arguments, correct in chosen]


CLASSIFIER_PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        ClassifierProtocol("linear-simclr-v1", trains_encoder=False, epochs=90, lr=0.1, tolerance=0.005),
        ClassifierProtocol("linear-mae-v1", trains_encoder=False, epochs=90, lr=0.1, tolerance=0.005, batch_norm=True, warmup_epochs=10),
        ClassifierProtocol("finetune-simclr-v1", trains_encoder=True, epochs=30, lr=0.05, tolerance=0.01),
        ClassifierProtocol(
            "finetune-mae-v1", trains_encoder=True, epochs=100, lr=5e-4, tolerance=0.01, optimizer="adamw", weight_decay=0.05,
            warmup_epochs=5, interpolation="bicubic", rand_augment=RandAugment(), erasing=RandomErasing(), mixup=0.8, cutmix=1.0,
            smoothing=0.1, layer_decay=0.65, drop_path=0.1,
        ),
    )
}  # fmt: skip


class _Training:
    """One process's part. What is random follows from the seed, the epoch, the step and the image: an epoch can be done again."""

    def __init__(self, protocol: ClassifierProtocol, encoder: PreTrainedModel, data: Data, session: Session):
        self.protocol, self.data, self.session = protocol, data, session
        self.batch_size = min(protocol.batch_size, len(data.train))
        self.steps_per_epoch = len(data.train) // self.batch_size
        if self.batch_size < 2 * session.accelerator.num_processes:
            raise InputError(
                f"{len(data.train)} training images are too few for {session.accelerator.num_processes} processes: take fewer processes"
            )
        accelerator, size = session.accelerator, data.preprocessing.crop
        with all_or_none():
            self.network = _Network(protocol, encoder, data.classes.count, session.seed)
            if protocol.trains_encoder:
                _freeze_unused(self.network, size)
                if accelerator.device.type == "cuda" and accelerator.num_processes > 1:
                    self.network = nn.SyncBatchNorm.convert_sync_batchnorm(self.network)
            optimizer = make_optimizer(
                _groups(self.network, protocol.layer_decay), protocol.optimizer, protocol.weight_decay, protocol.momentum, protocol.betas,
                decay_norm_and_bias=False,
            )  # fmt: skip
        self.model, self.optimizer = accelerator.prepare(self.network, optimizer)
        view = View(size, scale=protocol.scale, ratio=protocol.ratio, interpolation=protocol.interpolation)
        mean, std = data.preprocessing.mean, data.preprocessing.std
        self.crops = TrainingCrops(view, session.seed, protocol.rand_augment, protocol.erasing, mean, std)
        self.history: list[dict[str, int]] = []  # of each epoch, how many test images were right
        checkpoint = broadcast_from_main(lambda: load_checkpoint(session.state)) if session.state else None
        if checkpoint is not None:
            self._restore(checkpoint)

    def run_to_end(self) -> list[dict[str, int]]:
        """Returns the history."""
        protocol, bar = self.protocol, self.session.bar
        images = self.steps_per_epoch * self.batch_size + len(self.data.test)
        bar.reset(total=protocol.epochs * images)
        bar.update(len(self.history) * images)
        for epoch in range(len(self.history), protocol.epochs):
            with self._own_random_numbers(epoch):
                self._train_epoch(epoch)
            self.history.append(self._test())
            bar.set_postfix(epoch=epoch, top1=f"{self.history[-1]['top1'] / len(self.data.test):.4f}", refresh=False)
            if self.session.state:
                self._save()
        if self.session.state and self.session.accelerator.is_main_process:
            shutil.rmtree(self.session.state, ignore_errors=True)
        return self.history

    def _train_epoch(self, epoch: int) -> None:
        protocol, accelerator = self.protocol, self.session.accelerator
        peak = peak_lr(protocol.lr, "batch/256", self.batch_size)
        self.model.train()
        total = torch.zeros((), device=accelerator.device)
        for step, batch in enumerate(self.data.train.batches(self._positions(epoch)), epoch * self.steps_per_epoch):
            factor = lr_factor("cosine_per_step", step, self.steps_per_epoch, protocol.epochs, protocol.warmup_epochs, protocol.final_lr)
            set_learning_rates(self.optimizer, peak, factor, epoch)
            total += self._train_step(batch, epoch, step)
            self.session.bar.update(self.batch_size)
        loss = accelerator.reduce(total, reduction="mean").item() / self.steps_per_epoch
        if not math.isfinite(loss):
            last = (epoch + 1) * self.steps_per_epoch
            raise TrainingError(f"{protocol.name}: the loss is {loss} before step {last}, so nothing can be measured with this encoder")

    def _train_step(self, batch: Batch, epoch: int, step: int) -> Tensor:
        """One step of the optimiser; reads nothing back from the device. Returns the loss."""
        protocol, accelerator, seed = self.protocol, self.session.accelerator, self.session.seed
        images, targets = self.crops(batch.pixels, batch.sizes, batch.samples, epoch), batch.labels
        if protocol.mixup or protocol.cutmix or protocol.smoothing:
            images, targets = mix(
                images, targets, self.data.classes.count, mixup=protocol.mixup, cutmix=protocol.cutmix, smoothing=protocol.smoothing,
                draw=np.random.default_rng((seed, step)),  # the same in every process
            )  # fmt: skip
        with self._random_depth(batch.samples, epoch):
            logits = self.model(images)
        # Processes may have different numbers of images; gradients are averaged over processes.
        loss = F.cross_entropy(logits, targets, reduction="sum") * (accelerator.num_processes / self.batch_size)
        accelerator.backward(loss)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()

    @contextmanager
    def _own_random_numbers(self, epoch: int) -> Iterator[None]:
        """Inside, torch's random numbers (an encoder's dropout) follow from the epoch; outside they go on as if none had been drawn."""
        accelerator = self.session.accelerator
        with torch.random.fork_rng([accelerator.device] if accelerator.device.type == "cuda" else []):
            torch.manual_seed(self.session.seed * 1_000_003 + epoch * accelerator.num_processes + accelerator.process_index)
            yield

    def _random_depth(self, samples: Tensor, epoch: int) -> AbstractContextManager:
        encoder, rate = self.network.encoder, self.protocol.drop_path
        if not rate:
            return nullcontext()
        return drop_path(encoder, rate, uniform(samples, 2 * len(blocks(encoder)), self.session.seed, epoch, _DROP_PATH))

    def _positions(self, epoch: int) -> Iterator[Tensor]:
        """This process's images at each step: the same steps on any number of processes.

        `mix` mixes the first image with the last, the second with the last but one, and so on: pairs stay in one process.
        """
        generator = torch.Generator().manual_seed(self.session.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.data.train), generator=generator)
        first = self._share(torch.arange(-(-self.batch_size // 2)))
        last = self.batch_size - 1 - first.flip(0)
        mine = torch.cat([first, last[last > first[-1:]]])
        return (batch[mine] for batch in order.split(self.batch_size)[: self.steps_per_epoch])

    @torch.no_grad()
    def _test(self) -> dict[str, int]:
        """How many of all test images are right."""
        data, accelerator = self.data, self.session.accelerator
        self._agree_on_buffers()
        self.network.eval()
        of_test = data.classes.of_test.to(accelerator.device)
        # All zero, and all a process adds that has no images.
        right = top_counts(torch.zeros(0, data.classes.count), torch.zeros(0, dtype=torch.int64))
        mine = self._share(torch.arange(len(data.test)))
        with all_or_none():
            for _, batch in data.test.read(mine, self.protocol.batch_size) if len(mine) else ():
                scores = self.network(data.preprocessing(batch.pixels, batch.sizes))
                for name, count in top_counts(scores, of_test[batch.labels]).items():
                    right[name] += count
                self.session.bar.update(len(scores) * accelerator.num_processes)
        total = accelerator.reduce(torch.tensor(list(right.values()), device=accelerator.device), reduction="sum")
        return dict(zip(right, total.tolist(), strict=True))

    def _share(self, positions: Tensor) -> Tensor:
        accelerator = self.session.accelerator
        return positions.tensor_split(accelerator.num_processes)[accelerator.process_index]

    def _agree_on_buffers(self) -> None:
        """Batch norms of different processes may have seen different images; the main process's statistics count."""
        if self.session.accelerator.num_processes > 1:
            for buffer in self.network.buffers():
                distributed.broadcast(buffer, 0)

    def _save(self) -> None:
        """A checkpoint; a full disk costs a warning, not the measurement."""
        accelerator = self.session.accelerator
        with all_or_none():
            if accelerator.is_main_process:
                optimizer = {"optimizer": self.optimizer.state_dict()}
                if accelerator.scaler is not None:
                    optimizer["scaler"] = accelerator.scaler.state_dict()
                checkpoint = Checkpoint(self.network.trained.state_dict(), optimizer, {"history": self.history})
                try:
                    save_checkpoint(self.session.state, len(self.history) * self.steps_per_epoch, checkpoint)
                except OSError as error:
                    _log.warning("no checkpoint of %s in %s: %s", self.protocol.name, self.session.state, first_line(error))

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.network.trained.load_state_dict(checkpoint.tensors)
        self.optimizer.load_state_dict(checkpoint.optimizer["optimizer"])
        if self.session.accelerator.scaler is not None:
            self.session.accelerator.scaler.load_state_dict(checkpoint.optimizer["scaler"])
        self.history = checkpoint.state["history"]


class _Network(nn.Module):
    """A copy of the encoder and the classifier: from images (n, 3, height, width) to scores (n, classes)."""

    def __init__(self, protocol: ClassifierProtocol, encoder: PreTrainedModel, classes: int, seed: int):
        super().__init__()
        self.trains_encoder = protocol.trains_encoder
        # A teacher's weights may want no gradient.
        self.encoder = copy.deepcopy(encoder).requires_grad_(self.trains_encoder)
        width = feature_width(encoder)
        linear = _linear(width, classes, torch.Generator().manual_seed(seed))
        self.classifier = nn.Sequential(_BatchNorm(width), linear) if protocol.batch_norm else linear
        self.to(encoder.device)

    @property
    def trained(self) -> nn.Module:
        return self if self.trains_encoder else self.classifier

    def train(self, mode: bool = True) -> "_Network":
        super().train(mode)
        self.encoder.train(mode and self.trains_encoder)
        return self

    def forward(self, images: Tensor) -> Tensor:
        with nullcontext() if self.trains_encoder else torch.no_grad():
            found = features(self.encoder, images)
        return self.classifier(found)


class _BatchNorm(nn.BatchNorm1d):
    """Without weights; of features (n, width) that need no gradient, over the batches of all processes."""

    def __init__(self, width: int):
        super().__init__(width, eps=1e-6, affine=False)

    def forward(self, found: Tensor) -> Tensor:
        if not self.training or not distributed.is_initialized() or distributed.get_world_size() == 1:
            return super().forward(found.float())
        found = found.float()
        count = _sum(found.new_tensor(float(len(found))))
        mean = _sum(found.sum(dim=0)) / count
        variance = _sum((found - mean).square().sum(dim=0)) / count
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        self.num_batches_tracked += 1
        return (found - mean) / (variance + self.eps).sqrt()


def _sum(values: Tensor) -> Tensor:
    distributed.all_reduce(values)
    return values


def _linear(width: int, classes: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer with torch's usual random weights, of the generator's own numbers."""
    layer = nn.utils.skip_init(nn.Linear, width, classes)
    for values in (layer.weight, layer.bias):
        nn.init.uniform_(values, -(width**-0.5), width**-0.5, generator=generator)
    return layer


def _freeze_unused(network: _Network, size: int) -> None:
    """Weights that features do not depend on, such as a pooling layer's or a mask token, want no gradient: DDP would wait for it."""
    network.eval()
    network(torch.zeros(1, 3, size, size, device=network.encoder.device)).sum().backward()
    for parameter in network.parameters():
        parameter.requires_grad_(parameter.grad is not None)
        parameter.grad = None


def _groups(network: _Network, layer_decay: float | None) -> list[ParameterGroup]:
    encoder = network.encoder
    groups = decay_groups(encoder) if layer_decay is None else layer_groups(encoder, layer_decay)
    return [*groups, ParameterGroup(list(network.classifier.parameters()), decay=False)]


def layer_groups(encoder: PreTrainedModel, decay: float) -> list[ParameterGroup]:
    """The trainable parameters by depth: their learning rates are multiplied by `decay` for each layer that lies behind them.

    Norms, biases, tokens and positions are exempt from weight decay (BEiT, arXiv:2106.08254; MAE, arXiv:2111.06377).
    Raises `InputError` for encoders without blocks.
    """
    deep, last = depths(encoder), len(blocks(encoder)) + 1
    groups: dict[tuple[int, bool], ParameterGroup] = {}
    for name, parameter in encoder.named_parameters():
        if parameter.requires_grad:
            decayed = parameter.ndim > 1 and "token" not in name and "position" not in name
            new = ParameterGroup([], decay=decayed, lr_factor=decay ** (last - deep[name]))
            groups.setdefault((deep[name], decayed), new).parameters.append(parameter)
    return list(groups.values())
