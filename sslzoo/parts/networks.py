"""Networks around a backbone: projectors and predictors, a branch of both, and several views through one of them."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sslzoo.encoders import features


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


def forward_views(network: Callable[[Tensor], Tensor], views: list[Tensor], joint: bool) -> list[Tensor]:
    """The network's output for every view, each (n, ...), in order.

    joint: consecutive views of one size go through in one batch, which is faster and lets batch norms see them together.
    """
    if not joint:
        return [network(view) for view in views]
    outputs: list[Tensor] = []
    while len(outputs) < len(views):
        begin = end = len(outputs)
        while end < len(views) and views[end].shape == views[begin].shape:
            end += 1
        outputs.extend(network(torch.cat(views[begin:end])).chunk(end - begin))
    return outputs
