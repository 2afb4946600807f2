"""FastSiam: SimSiam with several views, where each is told from the mean of the others, a steadier target than a single one."""

from functools import partial

import torch
from huggingface_hub.dataclasses import strict
from torch import nn

from sslzoo.encoders import feature_width, features
from sslzoo.errors import InputError
from sslzoo.method import Method, MethodConfig, Paper
from sslzoo.parts.cosine import negative_cosine
from sslzoo.parts.forward_views import forward_views
from sslzoo.parts.heads import mlp
from sslzoo.parts.hyperparameters import dim, layers
from sslzoo.views import View


@strict
class FastSiamConfig(MethodConfig):
    """SimSiam's network for ImageNet (arXiv:2011.10566, section 3), which the paper takes over, one view after another.

    hidden_layers: of the projector, in front of its last linear layer.
    last_affine: whether the projector's last batch norm has a gain and a bias.
    """

    model_type = "sslzoo-fastsiam"

    joint_views: bool = False
    hidden_dim: int = dim(2048)
    hidden_layers: int = layers(2)
    projection_dim: int = dim(2048)
    last_affine: bool = False
    predictor_dim: int = dim(512)


class FastSiam(Method):
    config_class = FastSiamConfig
    paper = Paper(
        "FastSiam: Resource-Efficient Self-supervised Learning on a Single GPU",
        "Daniel Pototzky and others", 2022, None, doi="10.1007/978-3-031-16788-1_4",
    )  # fmt: skip
    varied_views = ("all",)

    def __init__(self, config: FastSiamConfig):
        super().__init__(config)
        self.backbone = self.build_encoder()
        widths = (feature_width(self.backbone), *[config.hidden_dim] * config.hidden_layers, config.projection_dim)
        self.projector = mlp(widths, last_norm=partial(nn.BatchNorm1d, affine=config.last_affine))
        self.predictor = mlp((config.projection_dim, config.predictor_dim, config.projection_dim))
        self.post_init()

    @property
    def encoder(self):
        return self.backbone

    @staticmethod
    def views(size):
        color = {"jitter": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "grayscale": 0.2}
        return {"all": View(size, count=4, scale=(0.2, 1.0), horizontal_flip=0.5, blur=0.5, blur_sigma=(0.1, 2.0), **color)}

    def loss(self, views, progress):
        if len(views) < 2:
            raise InputError("view.all.count is 1: a view needs others whose mean it is told from")
        projected = forward_views(lambda view: self.projector(features(self.backbone, view)), views, self.config.joint_views)
        guesses = forward_views(self.predictor, projected, self.config.joint_views)
        # The others' mean, not normalised before it is one, less its factor 1 / (views - 1), which the cosine does not see.
        total = torch.stack(projected).float().sum(dim=0)
        losses = [negative_cosine(guess, total - own) for guess, own in zip(guesses, projected, strict=True)]
        return {"loss": torch.stack(losses).mean()}
