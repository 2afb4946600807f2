"""Barlow Twins: each embedding dimension correlates with itself across the two views, and with no other dimension."""

from dataclasses import replace

import torch
from huggingface_hub.dataclasses import strict

from sslzoo.encoders import feature_width, features
from sslzoo.method import Method, MethodConfig
from sslzoo.optim import decay_groups
from sslzoo.paper import Paper, Reported
from sslzoo.parts.gather import gather
from sslzoo.parts.gram import off_diagonal_squares
from sslzoo.parts.hyperparameters import dim, layers, weight
from sslzoo.parts.networks import forward_views, mlp
from sslzoo.views.presets import byol_views


@strict
class BarlowTwinsConfig(MethodConfig):
    """The paper's ImageNet values (arXiv:2103.03230).

    hidden_layers: linear layers before the last. redundancy_weight: the paper's lambda.
    norm_and_bias_lr: learning rate of norms and biases as a share of the weights' (0.0048 of 0.2).
    """

    model_type = "sslzoo-barlowtwins"

    hidden_dim: int = dim(8192)
    hidden_layers: int = layers(2)
    projection_dim: int = dim(8192)
    redundancy_weight: float | int = weight(0.005)
    norm_and_bias_lr: float | int = weight(0.024)


class BarlowTwins(Method):
    config_class = BarlowTwinsConfig
    paper = Paper("Barlow Twins: Self-Supervised Learning via Redundancy Reduction", "Jure Zbontar and others", 2021, "2103.03230")
    reported = (Reported("linear_top1", 0.735, "res50", 1000, 2048, "facebookresearch/barlowtwins"),)
    views = staticmethod(byol_views)

    def __init__(self, config: BarlowTwinsConfig):
        super().__init__(config)
        self.backbone = self.build_encoder()
        self.projector = mlp((feature_width(self.backbone), *[config.hidden_dim] * config.hidden_layers, config.projection_dim))
        self.post_init()

    def loss(self, views, progress):
        first, second = map(_standardize, forward_views(self, self._embed, views))
        invariance = (1 - (first * second).sum(dim=0)).square().sum()
        redundancy = off_diagonal_squares(first, second)
        return {
            "loss": invariance + self.config.redundancy_weight * redundancy,
            "invariance": invariance.detach(), "redundancy": redundancy.detach(),
        }  # fmt: skip

    def parameter_groups(self):
        weights, *norms_and_biases = decay_groups(self)
        return [weights, *(replace(group, lr_factor=self.config.norm_and_bias_lr) for group in norms_and_biases)]

    def _embed(self, pixels):
        return self.projector(features(self.backbone, pixels))


def _standardize(rows: torch.Tensor) -> torch.Tensor:
    """The rows of all devices, each column with mean 0 and variance 1 / rows, so that products over the batch are correlations.

    Statistics are those of the global batch, as in the official code.
    """
    rows = gather(rows.float())
    variance, mean = torch.var_mean(rows, dim=0, correction=0)
    return (rows - mean) / (len(rows) * (variance + 1e-5)).sqrt()
