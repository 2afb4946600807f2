"""Networks around a backbone: projectors and predictors, a branch of both, and several views through one of them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import groupby
from types import MethodType
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from transformers import PreTrainedModel

from sslzoo.encoders import features

T = TypeVar("T", Tensor, tuple[Tensor, ...])


def mlp(
    widths: Sequence[int],
    norm: Callable[[int], nn.Module] | None = nn.BatchNorm1d,
    activation: Callable[[], nn.Module] = nn.ReLU,
    last_norm: Callable[[int], nn.Module] | None = None,
) -> nn.Sequential:
    """A projector or predictor: linear layers from widths[0] to widths[-1], with `norm` and `activation` after all but the last.

    last_norm: after the last layer. A linear layer has a bias exactly where no norm comes after it.
    """
    layers: list[nn.Module] = []
    for index, (width, next_width) in enumerate(zip(widths, widths[1:], strict=False), start=1):
        last = index == len(widths) - 1
        layer_norm = last_norm if last else norm
        layers.append(nn.Linear(width, next_width, bias=layer_norm is None))
        if layer_norm is not None:
            layers.append(layer_norm(next_width))
        if not last:
            layers.append(activation())
    return nn.Sequential(*layers)


class Branch(nn.Module):
    """A backbone and a projector: images (n, 3, height, width) to embeddings (n, width)."""

    def __init__(self, backbone: PreTrainedModel, projector: nn.Module):
        super().__init__()
        self.backbone, self.projector = backbone, projector

    def forward(self, pixels: Tensor) -> Tensor:
        return self.projector(features(self.backbone, pixels))


def forward_views(method: PreTrainedModel, network: Callable[..., T], *inputs: Sequence[Tensor]) -> list[T]:
    """The output of the network, a part of the method, for every view, in order: one tensor (n, ...) or a tuple of several.

    inputs: the views, then what else the network takes, one tensor (n, ...) per view.
    If `joint_views` is set in the method's configuration, consecutive views of one size go through in one batch, and batch norms see them
    together. Else batch norms see each view by itself, as if the views went through one by one.
    """
    if method.config.joint_views:
        return _forward_batches(nullcontext, network, inputs)
    # One batch saves launches, which cost a CPU less than the copies that batch norms make; `torch.compile` cannot trace `_norms_by_view`.
    if inputs[0][0].device.type == "cpu" or torch.compiler.is_compiling():
        return [network(*view) for view in zip(*inputs, strict=True)]
    return forward_apart(method, network, *inputs)


def forward_apart(method: nn.Module, network: Callable[..., T], *inputs: Sequence[Tensor]) -> list[T]:
    """[network(*view) for view in zip(*inputs)], with consecutive views of one size in one batch: the same numbers, with fewer launches."""
    return _forward_batches(partial(_norms_by_view, method), network, inputs)


def _forward_batches(
    context: Callable[[int], AbstractContextManager], network: Callable[..., T], inputs: Sequence[Sequence[Tensor]]
) -> list[T]:  # fmt: skip
    outputs: list[T] = []
    for _, group in groupby(zip(*inputs, strict=True), key=lambda view: [part.shape for part in view]):
        batch = list(group)
        with context(len(batch)):
            output = network(*map(torch.cat, zip(*batch, strict=True)))
        if isinstance(output, tuple):
            outputs.extend(zip(*(part.chunk(len(batch)) for part in output), strict=True))
        else:
            outputs.extend(output.chunk(len(batch)))
    return outputs


@contextmanager
def _norms_by_view(network: nn.Module, views: int) -> Iterator[None]:
    """During the block, batch norms in the network normalise each of the equal parts of their batch, one per view, by itself, in order.

    Outputs, gradients and running statistics are those of one call per view, of synchronised and split batch norms too.
    """
    norms = [module for module in network.modules() if isinstance(module, _NormBase)] if views > 1 else []
    for norm in norms:
        # A method and an integer, which `torch.compile` recognises in the next step; it would compile a closure again.
        norm.forward, norm.views = MethodType(_forward_by_view, norm), views
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward, norm.views


def _forward_by_view(norm: nn.Module, inputs: Tensor) -> Tensor:
    return torch.cat([type(norm).forward(norm, view) for view in inputs.chunk(norm.views)])
