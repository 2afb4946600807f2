"""VICReg: two views agree, while each embedding dimension keeps its variance over the batch and none correlates with another."""

from huggingface_hub.dataclasses import strict

from sslzoo.encoders import feature_width, features
from sslzoo.method import Method, MethodConfig
from sslzoo.paper import Paper, Reported
from sslzoo.parts.hyperparameters import dim, layers, weight
from sslzoo.parts.networks import forward_views, mlp
from sslzoo.parts.variance_covariance import vicreg_terms
from sslzoo.views import View
from sslzoo.views.presets import BYOL_COLOR


@strict
class VICRegConfig(MethodConfig):
    """The paper's ImageNet values (arXiv:2105.04906). hidden_layers: linear layers before the last."""

    model_type = "sslzoo-vicreg"

    hidden_dim: int = dim(8192)
    hidden_layers: int = layers(2)
    projection_dim: int = dim(8192)
    invariance_weight: float | int = weight(25.0)
    variance_weight: float | int = weight(25.0)
    covariance_weight: float | int = weight(1.0)


class VICReg(Method):
    config_class = VICRegConfig
    paper = Paper(
        "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning", "Adrien Bardes and others", 2021, "2105.04906"
    )
    reported = (Reported("linear_top1", 0.732, "res50", 1000, 2048, "facebookresearch/vicreg"),)

    def __init__(self, config: VICRegConfig):
        super().__init__(config)
        self.backbone = self.build_encoder()
        self.projector = mlp((feature_width(self.backbone), *[config.hidden_dim] * config.hidden_layers, config.projection_dim))
        self.post_init()

    @staticmethod
    def views(size):
        return {"both": View(size, count=2, blur=0.5, solarize=0.1, solarize_first=True, **BYOL_COLOR)}

    def loss(self, views, progress):
        config = self.config
        invariance, variance, covariance = vicreg_terms(*forward_views(self, self._embed, views))
        # Both views' covariances are added but their variances averaged, as in the official code; the paper's equation 6 adds both.
        # Statistics are over the rows of all devices, as there; the reference table's ImageNet-1k run has each device's own.
        total = config.invariance_weight * invariance + config.variance_weight * variance + 2 * config.covariance_weight * covariance
        return {"loss": total, "invariance": invariance.detach(), "variance": variance.detach(), "covariance": covariance.detach()}

    def _embed(self, pixels):
        return self.projector(features(self.backbone, pixels))
