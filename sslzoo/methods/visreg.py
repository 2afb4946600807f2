"""VISReg: LeJEPA whose embeddings are kept Gaussian by three terms, their means, deviations and sorted projections."""

import math

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor
from transformers import PreTrainedConfig

from sslzoo.encoders import feature_width, features
from sslzoo.method import Method, MethodConfig
from sslzoo.paper import Paper
from sslzoo.parts.directions import random_directions
from sslzoo.parts.gather import gather
from sslzoo.parts.hyperparameters import dim, rows, share
from sslzoo.parts.networks import forward_views, mlp
from sslzoo.parts.precision import full_precision
from sslzoo.views.presets import gaussian_views


@strict
class VISRegConfig(MethodConfig):
    """The paper's values for large data (arXiv:2606.02572), with two global views as in LeJEPA; the paper's best runs have four.

    gaussian_weight: share of the three Gaussian terms in the loss (the paper's lambda; 0.6 for small data).
    directions: random directions in each step, at least; every image of the batch draws equally many.
    """

    model_type = "sslzoo-visreg"

    encoder: PreTrainedConfig | str | dict = "vit-s16"
    hidden_dim: int = dim(2048)
    projection_dim: int = dim(256)
    gaussian_weight: float | int = share(0.9)
    directions: int = rows(4096)


class VISReg(Method):
    """The Gaussian terms are of the whole batch, gathered from all devices, and not of each device's part as in the authors' code."""

    config_class = VISRegConfig
    paper = Paper("VISReg: Variance-Invariance-Sketching Regularization for JEPA training", "Haiyu Wu and others", 2026, "2606.02572")
    varied_views = ("global", "local")
    views = staticmethod(gaussian_views)

    def __init__(self, config: VISRegConfig):
        super().__init__(config)
        self.backbone = self.build_encoder()
        self.projector = mlp((feature_width(self.backbone), config.hidden_dim, config.hidden_dim, config.projection_dim))
        self.post_init()

    def loss(self, views, progress):
        config = self.config
        embeddings = torch.stack(forward_views(self, self._embed, views))
        # Any view as large as the first is a global one.
        global_views = sum(view.shape == views[0].shape for view in views)
        prediction = (embeddings - embeddings[:global_views].mean(dim=0)).square().mean()
        all_embeddings = torch.stack([gather(view) for view in embeddings])
        each = -(-config.directions // all_embeddings.shape[1])
        noise = progress.draw(each * config.projection_dim).view(-1, config.projection_dim)
        center, scale, shape = gaussian_terms(all_embeddings, random_directions(gather(noise).to(embeddings.dtype)))
        loss = (1 - config.gaussian_weight) * prediction + config.gaussian_weight * (center + scale + shape)
        terms = {"prediction": prediction, "center": center, "scale": scale, "shape": shape}
        return {"loss": loss, **{name: term.detach() for name, term in terms.items()}}

    def _embed(self, pixels):
        return self.projector(features(self.backbone, pixels)).float()


def gaussian_terms(embeddings: Tensor, directions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How far the embeddings of each view (views, n, d) are from a standard Gaussian: in their means, deviations and shape.

    The third is the sliced Wasserstein distance of the standardised embeddings: along each direction (m, d) they are sorted and compared
    with the Gaussian's quantiles at 1/(n + 1), ..., n/(n + 1). It does not change deviations: that is left to the second.
    """
    mean = embeddings.mean(dim=1, keepdim=True)
    centered = embeddings - mean
    deviation = (centered.square().mean(dim=1, keepdim=True) + 1e-12).sqrt()  # whose gradient is finite where all are equal
    count = embeddings.shape[1]
    levels = torch.arange(1, count + 1, dtype=embeddings.dtype, device=embeddings.device) / (count + 1)
    quantiles = math.sqrt(2) * torch.erfinv(2 * levels - 1)
    with full_precision(embeddings.device):
        projections = (centered / (deviation.detach() + 1e-4)) @ directions.T
    shape = (projections.sort(dim=1).values - quantiles[:, None]).square().mean()
    return mean.square().mean(), (1 - deviation).square().mean(), shape
