"""DINO's head (arXiv:2104.14294), which iBOT takes over: an MLP to a bottleneck, and cosines to prototypes."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

from .networks import mlp


class DINOHead(nn.Module):
    """A GELU MLP to a bottleneck, then cosines to prototypes: the paper's weight-normalised last layer with its gain fixed to 1.

    hidden_layers: linear layers before the bottleneck. norm: whether batch norms follow them. trained_gain: the gain is trained.
    """

    def __init__(
        self, width: int, hidden_dim: int, hidden_layers: int, bottleneck_dim: int, prototypes: int, norm: bool = False,
        trained_gain: bool = False,
    ):  # fmt: skip
        super().__init__()
        self.mlp = mlp((width, *[hidden_dim] * hidden_layers, bottleneck_dim), norm=nn.BatchNorm1d if norm else None, activation=nn.GELU)
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        self.prototypes = nn.Parameter(nn.Linear(bottleneck_dim, prototypes, bias=False).weight.detach())
        self.gain = nn.Parameter(torch.ones(prototypes, 1)) if trained_gain else None

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """The bottleneck's output, of unit length: (..., bottleneck_dim)."""
        return F.normalize(self.mlp(inputs), dim=-1)

    def logits(self, embeddings: torch.Tensor) -> torch.Tensor:
        """The cosines of embeddings (..., bottleneck_dim) to the prototypes, times the gain: float32 (..., prototypes)."""
        weights = F.normalize(self.prototypes, dim=1)
        return F.linear(embeddings, weights if self.gain is None else self.gain * weights).float()

    def last_layer(self) -> Iterator[nn.Parameter]:
        """The prototypes and their gain, which are frozen at first."""
        return (parameter for parameter in (self.prototypes, self.gain) if parameter is not None)
