"""DCLW: DCL that pulls the harder on a positive pair the further it is apart."""

from huggingface_hub.dataclasses import strict
from torch import nn

from sslzoo.encoders import feature_width, features
from sslzoo.method import Method, MethodConfig, Paper
from sslzoo.parts.decoupled import decoupled
from sslzoo.parts.forward_views import forward_views
from sslzoo.parts.gather import gather
from sslzoo.parts.heads import mlp
from sslzoo.parts.hyperparameters import dim, positive
from sslzoo.views import View


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

    def __init__(self, config: DCLWConfig):
        super().__init__(config)
        self.backbone = self.build_encoder()
        widths = (feature_width(self.backbone), config.hidden_dim, config.projection_dim)
        self.projector = mlp(widths, last_norm=nn.BatchNorm1d)
        self.post_init()

    @property
    def encoder(self):
        return self.backbone

    @staticmethod
    def views(size):
        color = {"jitter": 0.8, "brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2, "grayscale": 0.2}
        return {"both": View(size, count=2, scale=(0.08, 1.0), horizontal_flip=0.5, blur=0.5, blur_sigma=(0.1, 2.0), **color)}

    def loss(self, views, progress):
        config = self.config
        cosines, negatives = decoupled(*forward_views(self._project, views, config.joint_views), config.temperature)
        # Weights around 1, without gradient: the mean that they compare with is the global batch's, as the paper's expectation is.
        pull = (cosines.detach() / config.sigma).exp()
        weights = 2 - pull / gather(pull).mean()
        return {"loss": (negatives - weights * cosines / config.temperature).mean()}

    def _project(self, pixels):
        return self.projector(features(self.backbone, pixels))
