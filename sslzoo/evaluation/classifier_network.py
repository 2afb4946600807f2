"""The network that a classifier protocol trains: encoder, optional batch norm, linear layer."""

import copy
from contextlib import nullcontext

import torch
import torch.distributed as distributed
from torch import Tensor, nn
from transformers import PreTrainedModel

from sslzoo.encoders import feature_width, features


class ClassifierNetwork(nn.Module):
    """A copy of the encoder and a classifier: from images (n, channels, height, width) to logits (n, classes).

    trains_encoder: else it is frozen and stays in evaluation mode. batch_norm: of the features, before the linear layer.
    """

    def __init__(self, encoder: PreTrainedModel, classes: int, *, trains_encoder: bool, batch_norm: bool, seed: int):
        super().__init__()
        self.trains_encoder = trains_encoder
        # Explicitly either way, as a teacher's parameters require no gradient.
        self.encoder = copy.deepcopy(encoder).requires_grad_(trains_encoder)
        width = feature_width(encoder)
        linear = _linear(width, classes, torch.Generator().manual_seed(seed))
        self.classifier = nn.Sequential(_FeatureBatchNorm(width), linear) if batch_norm else linear
        self.to(encoder.device)

    @property
    def trained(self) -> nn.Module:
        """The part that is trained, and so the part to save."""
        return self if self.trains_encoder else self.classifier

    def train(self, mode: bool = True) -> "ClassifierNetwork":
        super().train(mode)
        self.encoder.train(mode and self.trains_encoder)
        return self

    def forward(self, images: Tensor) -> Tensor:
        with nullcontext() if self.trains_encoder else torch.no_grad():
            embeddings = features(self.encoder, images)
        return self.classifier(embeddings)

    def freeze_unused(self, size: int) -> None:
        """Freezes parameters that the logits do not depend on (a pooler, a mask token), whose gradients DDP would wait for.

        size: px of the images. Leaves the network in evaluation mode.
        """
        self.eval()
        self(torch.zeros(1, self.encoder.config.num_channels, size, size, device=self.encoder.device)).sum().backward()
        for parameter in self.parameters():
            parameter.requires_grad_(parameter.grad is not None)
            parameter.grad = None


class _FeatureBatchNorm(nn.BatchNorm1d):
    """Batch norm without affine parameters, of features (n, width) that need no gradient, synchronised over processes on any device."""

    def __init__(self, width: int):
        super().__init__(width, eps=1e-6, affine=False)

    def forward(self, embeddings: Tensor) -> Tensor:
        embeddings = embeddings.float()
        if not self.training or not distributed.is_initialized() or distributed.get_world_size() == 1:
            return super().forward(embeddings)
        count = _all_reduce_sum(embeddings.new_tensor(float(len(embeddings))))
        mean = _all_reduce_sum(embeddings.sum(dim=0)) / count
        variance = _all_reduce_sum((embeddings - mean).square().sum(dim=0)) / count
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        self.num_batches_tracked.add_(1)
        return (embeddings - mean) / (variance + self.eps).sqrt()


def _all_reduce_sum(values: Tensor) -> Tensor:
    distributed.all_reduce(values)
    return values


def _linear(width: int, classes: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer with torch's default initialisation, drawn from `generator`."""
    layer = nn.utils.skip_init(nn.Linear, width, classes)
    for values in (layer.weight, layer.bias):
        nn.init.uniform_(values, -(width**-0.5), width**-0.5, generator=generator)
    return layer
