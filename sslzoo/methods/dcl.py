"""DCL: SimCLR without the positive pair in the denominator, so that easy positives do not weaken the gradient in small batches."""

from huggingface_hub.dataclasses import strict
from torch import nn

from sslzoo.encoders import feature_width, features
from sslzoo.method import Method, MethodConfig
from sslzoo.paper import Paper, Reported
from sslzoo.parts.decoupled import decoupled
from sslzoo.parts.hyperparameters import dim, positive
from sslzoo.parts.networks import forward_views, mlp
from sslzoo.views.presets import simclr_views


@strict
class DCLConfig(MethodConfig):
    """SimCLR's ImageNet values, as in the paper (arXiv:2110.06848)."""

    model_type = "sslzoo-dcl"

    hidden_dim: int = dim(2048)
    projection_dim: int = dim(128)
    temperature: float | int = positive(0.1)


class DCL(Method):
    config_class = DCLConfig
    paper = Paper("Decoupled Contrastive Learning", "Chun-Hsiao Yeh and others", 2021, "2110.06848")
    reported = (
        Reported("linear_top1", 0.646, "res50", 100, 256, "the paper"),
        Reported("linear_top1", 0.682, "res50", 200, 256, "the paper"),
    )
    views = staticmethod(simclr_views)

    def __init__(self, config: DCLConfig):
        super().__init__(config)
        self.backbone = self.build_encoder()
        self.projector = mlp((feature_width(self.backbone), config.hidden_dim, config.projection_dim), last_norm=nn.BatchNorm1d)
        self.post_init()

    def loss(self, views, progress):
        first, second = forward_views(self, self._embed, views)
        cosines, negatives = decoupled(first, second, self.config.temperature)
        return {"loss": (negatives - cosines / self.config.temperature).mean()}

    def _embed(self, pixels):
        return self.projector(features(self.backbone, pixels))
