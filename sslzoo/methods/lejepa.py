"""LeJEPA: each view's embedding predicts the mean of the global views', and all embeddings are kept distributed as a Gaussian."""

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor
from transformers import PreTrainedConfig

from sslzoo.encoders import feature_width, features
from sslzoo.method import Method, MethodConfig
from sslzoo.paper import Paper
from sslzoo.parts.directions import random_directions
from sslzoo.parts.gather import gather
from sslzoo.parts.hyperparameters import count, dim, positive, share
from sslzoo.parts.networks import forward_views, mlp
from sslzoo.parts.precision import full_precision
from sslzoo.views.presets import gaussian_views


@strict
class LeJEPAConfig(MethodConfig):
    """The paper's recommended values (arXiv:2511.08544) with the head of the reference page's row.

    gaussian_weight: share of the Gaussian term in the loss (the paper's lambda). knots, reach: the integral over frequencies has this
    many points from 0 to `reach`.
    """

    model_type = "sslzoo-lejepa"

    encoder: PreTrainedConfig | str | dict = "vit-s16"
    hidden_dim: int = dim(2048)
    projection_dim: int = dim(64)
    gaussian_weight: float | int = share(0.05)
    knots: int = count(17)
    reach: float | int = positive(3.0)


class LeJEPA(Method):
    config_class = LeJEPAConfig
    paper = Paper(
        "LeJEPA: Provable and Scalable Self-Supervised Learning Without the Heuristics", "Randall Balestriero and Yann LeCun", 2025,
        "2511.08544",
    )  # fmt: skip
    varied_views = ("local",)
    views = staticmethod(gaussian_views)

    def __init__(self, config: LeJEPAConfig):
        super().__init__(config)
        self.backbone = self.build_encoder()
        self.projector = mlp((feature_width(self.backbone), config.hidden_dim, config.hidden_dim, config.projection_dim))
        self.post_init()

    def loss(self, views, progress):
        config = self.config
        embeddings = torch.stack(forward_views(self, self._embed, views))
        prediction = (embeddings - embeddings[:2].mean(dim=0)).square().mean()
        directions = random_directions(gather(progress.draw(config.projection_dim)).to(embeddings.dtype))
        all_embeddings = torch.stack([gather(view) for view in embeddings])
        gaussian = epps_pulley(all_embeddings, directions, config.knots, config.reach).mean()
        loss = (1 - config.gaussian_weight) * prediction + config.gaussian_weight * gaussian
        return {"loss": loss, "prediction": prediction.detach(), "gaussian": gaussian.detach()}

    def _embed(self, pixels):
        return self.projector(features(self.backbone, pixels)).float()


def epps_pulley(embeddings: Tensor, directions: Tensor, knots: int, reach: float) -> Tensor:
    """How far embeddings (..., n, d) are from a standard Gaussian along each direction (m, d): (..., m), 0 at best.

    The statistic of Epps and Pulley (1983): n times the integral over t of the squared distance between the sample's characteristic
    function and the Gaussian's, exp(-t^2 / 2), weighted with the latter. The integrand is even: twice the integral from 0 to `reach`, by
    the trapezoidal rule.
    """
    t = torch.linspace(0, reach, knots, dtype=embeddings.dtype, device=embeddings.device)
    gaussian = (-t.square() / 2).exp()
    with full_precision(embeddings.device):
        angles = (embeddings @ directions.T)[..., None] * t
    distance = (angles.cos().mean(dim=-3) - gaussian).square() + angles.sin().mean(dim=-3).square()
    return embeddings.shape[-2] * 2 * torch.trapezoid(distance * gaussian, t, dim=-1)
