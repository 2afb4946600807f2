"""Linear probing on stored features, with a grid of hyper-parameters trained at once (as in DINOv2, arXiv:2304.07193)."""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from sslzoo.errors import InputError, first_line
from sslzoo.files import atomic_write
from sslzoo.optim import lr_factor
from sslzoo.processes import all_or_none, broadcast_tensors

from .evaluation_data import Data
from .features import extract
from .metrics import accuracy, top_counts
from .protocol import Measured, Protocol, Session

_FEATURES = "train_features.safetensors"
_CHUNK = 1024  # images at a time
_log = logging.getLogger(__name__)


class Setting(NamedTuple):
    """One point of the grid."""

    lr: float
    weight_decay: float


class Classifiers(NamedTuple):
    """G linear classifiers on standardised features of width d.

    mean, scale: (d,), a feature is standardised to (feature - mean) * scale. weights: (d + 1, G, classes); the last row is the bias.
    """

    mean: Tensor
    scale: Tensor
    weights: Tensor

    def inputs(self, features: Tensor) -> Tensor:
        """(n, d + 1) from features (n, d): standardised, with a column of ones for the bias."""
        return F.pad((features - self.mean) * self.scale, (0, 1), value=1.0)

    def logits(self, features: Tensor) -> Tensor:
        """(n, G, classes) from features (n, d)."""
        return (self.inputs(features) @ self.weights.flatten(1)).unflatten(1, self.weights.shape[1:])

    def finite(self) -> Tensor:
        """bool (G,): which classifiers have not diverged."""
        return torch.isfinite(self.weights).all(dim=2).all(dim=0)


@dataclass(frozen=True)
class FeatureLinearProtocol(Protocol):
    """Logistic regression by SGD on frozen features of images without augmentation, each embedded once.

    Learning rate and weight decay (of weights and bias) are selected on a held-out part of the training images. The classifier is then
    trained with them on all training images, and only after that are the test images embedded. Features are standardised per dimension
    by mean and standard deviation over the images of the training, so that one grid fits encoders of any scale and width; a constant
    dimension becomes zero. SGD with momentum starts from zero weights, its learning rate decays to zero by a cosine over all steps, and
    the incomplete last batch of an epoch is dropped.

    Memory on the device: 4 * width * training images bytes (ImageNet-1k and a ResNet-50: 10.5 GB), and 12 * width * settings * classes
    bytes for the grid (1.0 GB in that case).
    """

    learning_rates: tuple[float, ...]
    weight_decays: tuple[float, ...]
    momentum: float
    epochs: int
    batch_size: int
    holdout: float  # fraction of the training images, at least one image
    tolerance: float
    precision: str

    @property
    def settings(self) -> list[Setting]:
        """The grid."""
        return [Setting(*values) for values in product(self.learning_rates, self.weight_decays)]

    @torch.no_grad()
    def measure(self, encoder: PreTrainedModel, data: Data, session: Session) -> list[Measured]:
        """ "linear_top1" and, from six classes on, "linear_top5"; their arguments hold the selected setting.

        The training images' features are stored in the session's state, if it has one, until the end. Raises `InputError` for features
        that are not finite and for a single training image.
        """
        images, classes, bar = len(data.train), data.classes.count, session.bar
        if images < 2:
            raise InputError(f"{data.train.source} ({data.train.split}) has one image: one to train on and one to hold out are needed")
        bar.reset(total=3 * images + len(data.test))  # embedding, selection and training count as one pass each
        features, labels = _train_features(encoder, data, session)
        with all_or_none():
            setting = self.select(features, labels, classes, session.seed, bar.update)
            generator = torch.Generator().manual_seed(session.seed)
            classifier = self.fit(features, labels, torch.arange(len(features)), classes, [setting], generator, bar.update)
        features, labels = extract(encoder, data.test, data.preprocessing, done=bar.update)
        with all_or_none():
            _check_finite(features, "test")
            counts = top_counts(classifier.logits(features).squeeze(1), data.classes.of_test.to(labels.device)[labels])
        if session.state is not None and session.accelerator.is_main_process:
            with suppress(OSError):
                (session.state / _FEATURES).unlink(missing_ok=True)
        arguments = {"selected_lr": setting.lr, "selected_weight_decay": setting.weight_decay}
        return [Measured(f"linear_{name}", arguments, accuracy([count], [len(labels)])) for name, count in counts.items()]

    def select(
        self, features: Tensor, labels: Tensor, classes: int, seed: int, done: Callable[[int], object] = lambda count: None
    ) -> Setting:
        """The setting with the highest accuracy on held-out images; of several, the one with the lowest cross entropy.

        features: (n, d) of n >= 2 training images. labels: int64 (n,). done: called with the number of images since the last call, n in
        total. Raises `InputError` if all settings diverge.
        """
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(features), generator=generator)
        held_out, kept = order.tensor_split([max(1, round(self.holdout * len(order)))])
        classifiers = self.fit(features, labels, kept, classes, self.settings, generator, done)
        correct, loss = torch.zeros(2, len(self.settings), device=features.device)
        for rows in held_out.to(features.device).split(_CHUNK):
            logits, targets = classifiers.logits(features[rows]), labels[rows, None].expand(-1, len(self.settings))
            correct += (logits.argmax(dim=2) == targets).sum(dim=0)
            loss += F.cross_entropy(logits.transpose(1, 2), targets, reduction="none").sum(dim=0)
        done(len(held_out))
        outcomes = zip(self.settings, classifiers.finite().tolist(), correct.tolist(), loss.tolist(), strict=True)
        ranked = [(hits, -entropy, setting) for setting, finite, hits, entropy in outcomes if finite]
        if not ranked:
            raise InputError("linear classifiers diverge at every learning rate: some images' features must be extreme outliers")
        return max(ranked, key=lambda entry: entry[:2])[2]

    def fit(
        self, features: Tensor, labels: Tensor, rows: Tensor, classes: int, settings: Sequence[Setting], generator: torch.Generator,
        done: Callable[[int], object] = lambda count: None,
    ) -> Classifiers:  # fmt: skip
        """Trains a classifier for each setting on the same batches; one that diverges does not affect the others.

        features: (n, d). labels: int64 (n,). rows: int64 (m,) on the CPU, the rows to train on.
        generator: on the CPU, for the order. done: called with the number of images since the last call, m in total.
        """
        device = features.device
        mean, scale = _standardisation(features, rows.to(device))
        classifiers = Classifiers(mean, scale, features.new_zeros(features.shape[1] + 1, len(settings), classes))
        weights = classifiers.weights.flatten(1)  # a view with one column for each class of each setting
        momenta = torch.zeros_like(weights)
        rates, decays = features.new_tensor(settings).T.repeat_interleave(classes, dim=1)
        minus_one = features.new_tensor(-1.0)
        size = min(self.batch_size, len(rows))
        steps = len(rows) // size
        for epoch in range(self.epochs):
            order = rows[torch.randperm(len(rows), generator=generator)[: steps * size]].to(device)
            for step, batch in enumerate(order.split(size), epoch * steps):
                inputs = classifiers.inputs(features[batch])
                # The gradient of the cross entropy with respect to the logits: the probabilities minus the one-hot labels.
                gradients = (inputs @ weights).unflatten(1, (len(settings), classes)).softmax(dim=2)
                targets = labels[batch, None, None].expand(-1, len(settings), 1)
                gradients.scatter_add_(2, targets, minus_one.expand(targets.shape))
                momenta.addmm_(inputs.T, gradients.flatten(1), beta=self.momentum, alpha=1 / size).addcmul_(weights, decays)
                weights.addcmul_(momenta, rates, value=-lr_factor("cosine_per_step", step, steps, self.epochs, 0, 0.0))
            done(len(rows) * (epoch + 1) // self.epochs - len(rows) * epoch // self.epochs)
        return classifiers


FEATURE_PROTOCOLS = {
    "linear-features-v1": FeatureLinearProtocol(
        learning_rates=(0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0), weight_decays=(0.0, 1e-4, 1e-3, 1e-2), momentum=0.9,
        epochs=30, batch_size=256, holdout=0.1, tolerance=0.01, precision="fp32",
    ),
}  # fmt: skip


def _train_features(encoder: PreTrainedModel, data: Data, session: Session) -> tuple[Tensor, Tensor]:
    """Features and labels, from the state of an interrupted measurement if it has them; only the main process uses the state."""
    accelerator, count = session.accelerator, len(data.train)
    file = session.state / _FEATURES if session.state and accelerator.is_main_process else None
    with all_or_none():
        stored_features = _read(file, count, accelerator.device) if file else None
    stored_features = broadcast_tensors(stored_features, accelerator.device)
    if stored_features is not None:
        session.bar.update(count)
        return stored_features["features"], stored_features["labels"]
    features, labels = extract(encoder, data.train, data.preprocessing, done=session.bar.update)
    with all_or_none():
        _check_finite(features, "train")
        if file:
            _write(file, {"features": features.contiguous(), "labels": labels.contiguous()})
    if session.state:
        session.stop_if_time_is_up("the features of the training images saved")
    return features, labels


def _read(file: Path, count: int, device: torch.device) -> dict[str, Tensor] | None:
    """The stored features and labels of `count` images; None if there is no such file or, with a warning, if it cannot be read."""
    if not file.exists():
        return None
    try:
        tensors = load_file(file)
        if {name: len(value) for name, value in tensors.items()} != {"features": count, "labels": count}:
            raise ValueError("it holds something else")
        # Not by load_file, which refuses "cpu:0", the device of a process among several on CPUs.
        return {name: value.to(device) for name, value in tensors.items()}
    except (OSError, ValueError, SafetensorError) as error:
        _log.warning("embedding the training images again, as %s cannot be read: %s", file, first_line(error))
        return None


def _write(file: Path, tensors: dict[str, Tensor]) -> None:
    """A full disk costs a warning, not the measurement."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as temporary:
            save_file(tensors, temporary)
    except OSError as error:
        _log.warning("features are not stored in %s: %s", file, first_line(error))


def _check_finite(features: Tensor, split: str) -> None:
    # A sum is finite only if all its terms are, and needs no copy of the features.
    if not bool(torch.isfinite(features.sum(dim=1)).all()):
        raise InputError(f"features of the {split} images are not finite: the encoder's weights are broken")


def _standardisation(features: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and reciprocal standard deviation (d,) over some rows, chunk by chunk."""
    mean = sum(features[part].sum(dim=0) for part in rows.split(_CHUNK)) / len(rows)
    std = (sum((features[part] - mean).square().sum(dim=0) for part in rows.split(_CHUNK)) / len(rows)).sqrt()
    # Zero for a constant dimension, whose rounding errors would otherwise be scaled up.
    return mean, torch.where(std > 1e-5 * mean.abs(), 1 / std, 0.0)
