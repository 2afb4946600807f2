"""MSN: the student predicts from masked and small views to which prototypes its moving average, the teacher, assigns the image."""

import math

import torch
from huggingface_hub.dataclasses import strict
from torch import nn

from sslzoo.method import Method, MethodConfig
from sslzoo.optim import ParameterGroup, decay_groups
from sslzoo.paper import Paper
from sslzoo.parts.ema import ema_update, frozen_copy, momentum_schedule
from sslzoo.parts.hyperparameters import share, weight
from sslzoo.parts.masked_siamese import MaskedBranch, MaskedSiameseConfig, predict_assignments
from sslzoo.parts.usage import usage_entropy
from sslzoo.views.presets import masked_siamese_views


@strict
class MSNConfig(MaskedSiameseConfig, MethodConfig):
    """The paper's ImageNet values for ViT-S/16 (arXiv:2204.07141 and its released code).

    entropy_weight: of the term that maximises the entropy of the mean assignment.
    """

    model_type = "sslzoo-msn"

    entropy_weight: float | int = weight(1.0)
    teacher_momentum: float | int = share(0.996)
    teacher_momentum_end: float | int = share(1.0)


class MSN(Method):
    """Prototypes are trained, without weight decay, as in the paper and its code; lightly's benchmark never trains them."""

    config_class = MSNConfig
    paper = Paper("Masked Siamese Networks for Label-Efficient Learning", "Mahmoud Assran and others", 2022, "2204.07141")
    varied_views = ("focal",)
    views = staticmethod(masked_siamese_views)

    def __init__(self, config: MSNConfig):
        super().__init__(config)
        self.student = MaskedBranch(self.build_encoder(), config.hidden_dim, config.projection_dim)
        self.teacher = frozen_copy(self.student)
        self.prototypes = nn.Parameter(nn.Linear(config.projection_dim, config.prototypes, bias=False).weight.detach())
        self.post_init()

    @property
    def encoder(self):
        return self.teacher.backbone

    def loss(self, views, progress):
        cross_entropy, mean_assignment = predict_assignments(self, self.student, self.teacher, self.prototypes, views, progress.draw)
        # Mean entropy maximisation: how far the entropy of the mean assignment is from the largest.
        missing_entropy = math.log(len(mean_assignment)) - torch.special.entr(mean_assignment).sum()
        return {"loss": cross_entropy + self.config.entropy_weight * missing_entropy, "usage_entropy": usage_entropy(mean_assignment[None])}

    def after_step(self, out, progress):
        config = self.config
        ema_update(self.teacher, self.student, momentum_schedule(config.teacher_momentum, config.teacher_momentum_end, progress.fraction))

    def parameter_groups(self):
        return [*decay_groups(self, exclude=[self.prototypes]), ParameterGroup([self.prototypes], decay=False)]
