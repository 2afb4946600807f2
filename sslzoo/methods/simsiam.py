"""SimSiam: from one view a predictor guesses the network's own projection of the other, which a stop-gradient holds still."""

from functools import partial

from huggingface_hub.dataclasses import strict
from torch import nn

from sslzoo.encoders import feature_width, features
from sslzoo.method import Method, MethodConfig, Paper, Reported
from sslzoo.optim import decayed_and_not
from sslzoo.parts.cosine import negative_cosine
from sslzoo.parts.forward_views import forward_views
from sslzoo.parts.heads import mlp
from sslzoo.parts.hyperparameters import dim, layers
from sslzoo.views import View


@strict
class SimSiamConfig(MethodConfig):
    """The paper's ImageNet values (arXiv:2011.10566, section 3); its code sends the views through one by one.

    hidden_layers: of the projector, in front of its last linear layer.
    last_affine: whether the projector's last batch norm has a gain and a bias.
    constant_predictor_lr: the predictor's learning rate stays at its peak (section 4.2, best in the paper; not in the reference table).
    """

    model_type = "sslzoo-simsiam"

    joint_views: bool = False
    hidden_dim: int = dim(2048)
    hidden_layers: int = layers(2)
    projection_dim: int = dim(2048)
    last_affine: bool = False
    predictor_dim: int = dim(512)
    constant_predictor_lr: bool = True


class SimSiam(Method):
    config_class = SimSiamConfig
    paper = Paper("Exploring Simple Siamese Representation Learning", "Xinlei Chen and Kaiming He", 2020, "2011.10566")
    reported = (Reported("linear_top1", 0.681, "res50", 100, 512, "facebookresearch/simsiam"),)

    def __init__(self, config: SimSiamConfig):
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
        return {"both": View(size, count=2, scale=(0.2, 1.0), horizontal_flip=0.5, blur=0.5, blur_sigma=(0.1, 2.0), **color)}

    def loss(self, views, progress):
        first, second = forward_views(lambda view: self.projector(features(self.backbone, view)), views, self.config.joint_views)
        guess_1, guess_2 = forward_views(self.predictor, [first, second], self.config.joint_views)
        return {"loss": (negative_cosine(guess_1, second) + negative_cosine(guess_2, first)) / 2}

    def parameter_groups(self):
        groups = decayed_and_not(self, without=self.predictor.parameters())
        predictor = decayed_and_not(self.predictor)
        for group in predictor:
            group.constant_lr = self.config.constant_predictor_lr
        return [*groups, *predictor]
