"""SimCLR: two views of an image identify each other among the views of all other images."""

from huggingface_hub.dataclasses import strict
from torch import nn

from sslzoo.encoders import feature_width, features
from sslzoo.method import Method, MethodConfig
from sslzoo.paper import Paper, Reported
from sslzoo.parts.hyperparameters import dim, positive
from sslzoo.parts.networks import forward_views, mlp
from sslzoo.parts.nt_xent import nt_xent
from sslzoo.views.presets import simclr_views


@strict
class SimCLRConfig(MethodConfig):
    """The paper's ImageNet values (arXiv:2002.05709, appendix B.9, and its released code)."""

    model_type = "sslzoo-simclr"

    hidden_dim: int = dim(2048)
    projection_dim: int = dim(128)
    temperature: float | int = positive(0.1)


class SimCLR(Method):
    config_class = SimCLRConfig
    paper = Paper("A Simple Framework for Contrastive Learning of Visual Representations", "Ting Chen and others", 2020, "2002.05709")
    reported = (Reported("linear_top1", 0.645, "res50", 100, 4096, "google-research/simclr"),)
    views = staticmethod(simclr_views)

    def __init__(self, config: SimCLRConfig):
        super().__init__(config)
        self.backbone = self.build_encoder()
        self.projector = mlp((feature_width(self.backbone), config.hidden_dim, config.projection_dim), last_norm=nn.BatchNorm1d)
        self.post_init()

    def loss(self, views, progress):
        first, second = forward_views(self, self._embed, views)
        return {"loss": nt_xent(first, second, self.config.temperature)}

    def _embed(self, pixels):
        return self.projector(features(self.backbone, pixels))
