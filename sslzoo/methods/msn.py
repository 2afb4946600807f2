"""MSN: from a masked view and small crops the student tells which prototypes its moving average, the teacher, assigns the image to."""

import math

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import PreTrainedConfig

from sslzoo.encoders import feature_width, token_grid, tokens
from sslzoo.method import Method, MethodConfig, Paper
from sslzoo.optim import ParameterGroup, decayed_and_not
from sslzoo.parts.ema import ema_update, frozen_copy, momentum_schedule
from sslzoo.parts.heads import mlp
from sslzoo.parts.hyperparameters import dim, positive, rows, share, weight
from sslzoo.parts.masked_siamese import each_masked_view, guess_assignments, keep_patches
from sslzoo.parts.usage import usage_entropy
from sslzoo.views import View


@strict
class MSNConfig(MethodConfig):
    """The paper's ImageNet values for ViT-S/16 (arXiv:2204.07141 and its released code).

    mask_ratio, focal_mask_ratio: shares of the patches of the anchor, and of each focal view, that the student does not see.
    sharpening: temperature of the targets as a multiple of `temperature`.
    entropy_weight: of the term that maximises the entropy of the mean assignment.
    """

    model_type = "sslzoo-msn"

    encoder: str | dict | PreTrainedConfig = "vit-s16"
    hidden_dim: int = dim(2048)
    projection_dim: int = dim(256)
    prototypes: int = rows(1024)
    mask_ratio: float | int = share(0.15)
    focal_mask_ratio: float | int = share(0.0)
    temperature: float | int = positive(0.1)
    sharpening: float | int = positive(0.25)
    entropy_weight: float | int = weight(1.0)
    teacher_momentum: float | int = share(0.996)
    teacher_momentum_end: float | int = share(1.0)


class MSN(Method):
    """Prototypes are trained, without weight decay, as in the paper and its code; lightly's benchmark never trains them."""

    config_class = MSNConfig
    paper = Paper("Masked Siamese Networks for Label-Efficient Learning", "Mahmoud Assran and others", 2022, "2204.07141")
    varied_views = ("focal",)

    def __init__(self, config: MSNConfig):
        super().__init__(config)
        backbone = self.build_encoder()
        widths = (feature_width(backbone), config.hidden_dim, config.hidden_dim, config.projection_dim)
        self.student = nn.ModuleDict({"backbone": backbone, "projector": mlp(widths, activation=nn.GELU)})
        self.teacher = frozen_copy(self.student)
        self.prototypes = nn.Parameter(nn.Linear(config.projection_dim, config.prototypes, bias=False).weight.detach())
        self.post_init()

    @property
    def encoder(self):
        return self.teacher["backbone"]

    @staticmethod
    def views(size):
        color = {"jitter": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "grayscale": 0.2}
        look = {"horizontal_flip": 0.5, "blur": 0.5, **color}
        small = max(4, 4 * round(size * 96 / 224 / 4))  # px that patches of 4 px fill
        return {
            "target": View(size, scale=(0.3, 1.0), **look),
            "anchor": View(size, scale=(0.3, 1.0), **look),
            "focal": View(small, count=10, scale=(0.05, 0.3), **look),
        }

    def loss(self, views, progress):
        config = self.config
        target, *anchors = views
        _, patch = token_grid(self.student["backbone"])
        with torch.no_grad():
            targets = self._project(self.teacher, target)
        ratios = [config.mask_ratio, *[config.focal_mask_ratio] * (len(anchors) - 1)]
        keeps = keep_patches(anchors, patch, ratios, progress.draw)
        guesses = each_masked_view(lambda *view: self._project(self.student, *view), anchors, keeps, config.joint_views)
        entropy, mean = guess_assignments(guesses, targets, self.prototypes, config.temperature, config.sharpening)
        missing = math.log(config.prototypes) - torch.special.entr(mean).sum()
        return {"loss": entropy + config.entropy_weight * missing, "usage_entropy": usage_entropy(mean[None])}

    def after_step(self, out, progress):
        config = self.config
        ema_update(self.teacher, self.student, momentum_schedule(config.teacher_momentum, config.teacher_momentum_end, progress.fraction))

    def parameter_groups(self):
        return [*decayed_and_not(self, without=[self.prototypes]), ParameterGroup([self.prototypes], decay=False)]

    @staticmethod
    def _project(branch, pixels, keep=None):
        return branch["projector"](tokens(branch["backbone"], pixels, keep=keep)[:, 0])
