"""Linear classifiers on stored features, a whole grid of settings at once (as Oquab and others, 2023, arXiv:2304.07193, "DINOv2")."""

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

from .features import extract
from .metrics import accuracy, top_counts
from .protocol import Data, Measured, Protocol, Session

_STORED = "train_features.safetensors"
_CHUNK = 1024  # images that are looked at together
_log = logging.getLogger(__name__)


class Setting(NamedTuple):
    """One of the grid."""

    lr: float
    weight_decay: float


class Classifiers(NamedTuple):
    """G linear classifiers on features of width d, which they see standardised.

    mean, scale: (d,), what is taken from a feature, and what it is then multiplied by.
    weights: (d + 1, G, classes); the last row is the bias.
    """

    mean: Tensor
    scale: Tensor
    weights: Tensor

    def inputs(self, features: Tensor) -> Tensor:
        """(n, d + 1) from features (n, d): standardised, then a one for the bias."""
        return F.pad((features - self.mean) * self.scale, (0, 1), value=1.0)

    def scores(self, features: Tensor) -> Tensor:
        """(n, G, classes) from features (n, d)."""
        return (self.inputs(features) @ self.weights.flatten(1)).unflatten(1, self.weights.shape[1:])

    def finite(self) -> Tensor:
        """bool (G,): which have not diverged."""
        return torch.isfinite(self.weights).all(dim=2).all(dim=0)


@dataclass(frozen=True)
class FeatureLinearProtocol(Protocol):
    """Logistic regression by SGD on frozen features; each image is embedded once, as test images are, without variation.

    The learning rate and the weight decay (of weights and bias) are chosen on training images that are held out; the classifier is then
    trained with them on all training images, and only after that are the test images embedded. Features are standardised by the mean and
    the standard deviation of each dimension over the images that are trained on, so that one grid fits encoders of every scale and width;
    a dimension that does not vary counts as zero. SGD with momentum starts from zero weights, its learning rate falls to zero by a cosine
    over all steps, and images beyond an epoch's last whole batch are left out.

    Memory on the device: 4 * width * training images bytes, and as much again while they are put together (ImageNet-1k and a ResNet-50:
    twice 10.5 GB); then 12 * width * settings * classes bytes for the grid (there 1.0 GB).
    """

    learning_rates: tuple[float, ...]
    weight_decays: tuple[float, ...]
    momentum: float
    epochs: int
    batch_size: int
    holdout: float  # share of the training images, at least one image
    tolerance: float
    precision: str

    @property
    def settings(self) -> list[Setting]:
        """The grid."""
        return [Setting(*values) for values in product(self.learning_rates, self.weight_decays)]

    @torch.no_grad()
    def measure(self, encoder: PreTrainedModel, data: Data, session: Session) -> list[Measured]:
        """Gives "linear_top1" and, from six classes on, "linear_top5"; their arguments tell the setting that was selected.

        With a session's state, the training images' features are kept there until the end. Raises `InputError` for features that are not
        finite and for a single training image.
        """
        images, classes, bar = len(data.train), data.classes.count, session.bar
        if images < 2:
            raise InputError(f"{data.train.source} ({data.train.split}) has one image: one to train on and one to choose on are needed")
        bar.reset(total=3 * images + len(data.test))  # each of the two trainings counts as much as embedding its images
        features, labels = _train_features(encoder, data, session)
        with all_or_none():
            setting = self.choose(features, labels, classes, session.seed, bar.update)
            generator = torch.Generator().manual_seed(session.seed)
            classifier = self.fit(features, labels, torch.arange(len(features)), classes, [setting], generator, bar.update)
        features, labels = extract(encoder, data.test, data.preprocessing, done=bar.update)
        with all_or_none():
            _check_finite(features, "test")
            counts = top_counts(classifier.scores(features).squeeze(1), data.classes.of_test.to(labels.device)[labels])
        if session.state is not None and session.accelerator.is_main_process:
            with suppress(OSError):
                (session.state / _STORED).unlink(missing_ok=True)
        arguments = {"selected_lr": setting.lr, "selected_weight_decay": setting.weight_decay}
        return [Measured(f"linear_{name}", arguments, accuracy([count], [len(labels)])) for name, count in counts.items()]

    def choose(
        self, features: Tensor, labels: Tensor, classes: int, seed: int, done: Callable[[int], object] = lambda count: None
    ) -> Setting:
        """The setting of the grid that is right most often on images held out; of equals, the one with the least cross entropy there.

        features: (n, d) of n >= 2 training images. labels: int64 (n,). done: told how many images are done, n in all.
        Raises `InputError` when all settings diverge.
        """
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(features), generator=generator)
        held, kept = order.tensor_split([max(1, round(self.holdout * len(order)))])
        classifiers = self.fit(features, labels, kept, classes, self.settings, generator, done)
        correct, loss = torch.zeros(2, len(self.settings), device=features.device)
        for rows in held.to(features.device).split(_CHUNK):
            scores, targets = classifiers.scores(features[rows]), labels[rows, None].expand(-1, len(self.settings))
            correct += (scores.argmax(dim=2) == targets).sum(dim=0)
            loss += F.cross_entropy(scores.transpose(1, 2), targets, reduction="none").sum(dim=0)
        done(len(held))
        found = zip(self.settings, classifiers.finite().tolist(), correct.tolist(), loss.tolist(), strict=True)
        ranked = [(right, -lost, setting) for setting, finite, right, lost in found if finite]
        if not ranked:
            raise InputError("linear classifiers diverge at every learning rate: some images' features must be very far from the others'")
        return max(ranked, key=lambda entry: entry[:2])[2]

    def fit(
        self, features: Tensor, labels: Tensor, rows: Tensor, classes: int, settings: Sequence[Setting], generator: torch.Generator,
        done: Callable[[int], object] = lambda count: None,
    ) -> Classifiers:  # fmt: skip
        """A classifier for each setting, all from the same batches; one that diverges leaves the others alone.

        features: (n, d). labels: int64 (n,). rows: int64 (m,) on the CPU, which of them are trained on.
        generator: of the CPU, for the order. done: told how many images are done, m in all.
        """
        device = features.device
        mean, scale = _standardisation(features, rows.to(device))
        classifiers = Classifiers(mean, scale, features.new_zeros(features.shape[1] + 1, len(settings), classes))
        weights = classifiers.weights.flatten(1)  # the same memory: one column for each class of each setting
        momenta = torch.zeros_like(weights)
        rates, decays = features.new_tensor(settings).T.repeat_interleave(classes, dim=1)
        minus_one = features.new_tensor(-1.0)
        size = min(self.batch_size, len(rows))
        steps = len(rows) // size
        for epoch in range(self.epochs):
            order = rows[torch.randperm(len(rows), generator=generator)[: steps * size]].to(device)
            for step, batch in enumerate(order.split(size), epoch * steps):
                inputs = classifiers.inputs(features[batch])
                # Of the cross entropy with respect to the scores: the probabilities, less one at the image's class.
                slopes = (inputs @ weights).unflatten(1, (len(settings), classes)).softmax(dim=2)
                targets = labels[batch, None, None].expand(-1, len(settings), 1)
                slopes.scatter_add_(2, targets, minus_one.expand(targets.shape))
                momenta.addmm_(inputs.T, slopes.flatten(1), beta=self.momentum, alpha=1 / size).addcmul_(weights, decays)
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
    """From the state where an earlier measurement, which was stopped, has left them; the main process alone reads and writes it."""
    accelerator, count = session.accelerator, len(data.train)
    stored = session.state / _STORED if session.state and accelerator.is_main_process else None
    with all_or_none():
        kept = _read(stored, count, accelerator.device) if stored else None
    kept = broadcast_tensors(kept, accelerator.device)
    if kept is not None:
        session.bar.update(count)
        return kept["features"], kept["labels"]
    features, labels = extract(encoder, data.train, data.preprocessing, done=session.bar.update)
    with all_or_none():
        _check_finite(features, "train")
        if stored:
            _write(stored, {"features": features.contiguous(), "labels": labels.contiguous()})
    return features, labels


def _read(stored: Path, count: int, device: torch.device) -> dict[str, Tensor] | None:
    """The features and labels of `count` images; None, with a warning where there is a file, if they cannot be had."""
    if not stored.exists():
        return None
    try:
        found = load_file(stored)
        if {name: len(value) for name, value in found.items()} != {"features": count, "labels": count}:
            raise ValueError("it holds something else")
        return {name: value.to(device) for name, value in found.items()}  # of several on CPUs, "cpu:0" is one that safetensors refuses
    except (OSError, ValueError, SafetensorError) as error:
        _log.warning("embedding the training images again, for %s cannot be read: %s", stored, first_line(error))
        return None


def _write(stored: Path, tensors: dict[str, Tensor]) -> None:
    """A full disk costs a warning, not the measurement."""
    try:
        stored.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(stored) as temporary:
            save_file(tensors, temporary)
    except OSError as error:
        _log.warning("features are not kept in %s: %s", stored, first_line(error))


def _check_finite(features: Tensor, split: str) -> None:
    # Sums are as little finite as what they are made of, and take no second copy of the features.
    if not bool(torch.isfinite(features.sum(dim=1)).all()):
        raise InputError(f"features of the {split} images are not finite: the encoder's weights are broken")


def _standardisation(features: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and reciprocal standard deviation (d,) over some rows, a few at a time."""
    mean = sum(features[part].sum(dim=0) for part in rows.split(_CHUNK)) / len(rows)
    std = (sum((features[part] - mean).square().sum(dim=0) for part in rows.split(_CHUNK)) / len(rows)).sqrt()
    # What rounding alone makes of a dimension that does not vary must not be blown up.
    return mean, torch.where(std > 1e-5 * mean.abs(), 1 / std, 0.0)
