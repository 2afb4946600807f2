"""DCLW: DCL with larger weights for positive pairs that are further apart."""

from huggingface_hub.dataclasses import strict
from torch import nn

from sslzoo.encoders import feature_width, features
from sslzoo.method import Method, MethodConfig
from sslzoo.paper import Paper
from sslzoo.parts.decoupled import decoupled
from sslzoo.parts.gather import gather
from sslzoo.parts.hyperparameters import dim, positive
from sslzoo.parts.networks import forward_views, mlp
from sslzoo.views.presets import simclr_views


@strict
class DCLWConfig(MethodConfig):
    """SimCLR's ImageNet values, as in the paper (arXiv:2110.06848). sigma: temperature of the positives' weights."""

    model_type = "sslzoo-dclw"

    hidden_dim: int = dim(2048)
    projection_dim: int = dim(128)
    temperature: float | int = positive(0.1)
    sigma: float | int = positive(0.5)


class DCLW(Method):
    config_class = DCLWConfig
    paper = Paper("Decoupled Contrastive Learning", "Chun-Hsiao Yeh and others", 2021, "2110.06848")
    views = staticmethod(simclr_views)

    def __init__(self, config: DCLWConfig):
        super().__init__(config)
        self.backbone = self.build_encoder()
        self.projector = mlp((feature_width(self.backbone), config.hidden_dim, config.projection_dim), last_norm=nn.BatchNorm1d)
        self.post_init()

    def loss(self, views, progress):
        config = self.config
        first, second = forward_views(self, self._embed, views)
        cosines, negatives = decoupled(first, second, config.temperature)
        # The paper's weights of the positives, 1 on average and without gradient; the expectation is the mean over the global batch.
        von_mises_fisher = (cosines.detach() / config.sigma).exp()
        weights = 2 - von_mises_fisher / gather(von_mises_fisher).mean()
        return {"loss": (negatives - weights * cosines / config.temperature).mean()}

    def _embed(self, pixels):
        return self.projector(features(self.backbone, pixels))
