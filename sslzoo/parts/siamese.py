"""The projector and the predictor of SimSiam (arXiv:2011.10566, section 3), with their hyper-parameters."""

from dataclasses import dataclass
from functools import partial

from torch import nn

from .hyperparameters import dim, layers
from .networks import mlp


@dataclass(repr=False, eq=False)
class SiameseConfig:
    """The paper's values for ImageNet, whose code forwards the views one by one.

    hidden_layers: linear layers of the projector before its last one.
    last_affine: whether the projector's last batch norm has a gain and a bias.
    """

    joint_views: bool = False
    hidden_dim: int = dim(2048)
    hidden_layers: int = layers(2)
    projection_dim: int = dim(2048)
    last_affine: bool = False
    predictor_dim: int = dim(512)


def projector_and_predictor(width: int, config: SiameseConfig) -> tuple[nn.Sequential, nn.Sequential]:
    """Features (n, width) to projections (n, projection_dim), and projections to predictions of the same width."""
    widths = (width, *[config.hidden_dim] * config.hidden_layers, config.projection_dim)
    projector = mlp(widths, last_norm=partial(nn.BatchNorm1d, affine=config.last_affine))
    return projector, mlp((config.projection_dim, config.predictor_dim, config.projection_dim))
