"""MSN: the student predicts from masked and small views to which prototypes its moving average, the teacher, assigns the image."""

import math

import torch
from huggingface_hub.dataclasses import strict

from sslzoo.method import Method, MethodConfig
from sslzoo.paper import Paper
from sslzoo.parts.hyperparameters import share, weight
from sslzoo.parts.masked_siamese import MaskedSiameseConfig, MaskedSiameseMixin
from sslzoo.parts.usage import usage_entropy


@strict
class MSNConfig(MaskedSiameseConfig, MethodConfig):
    """The paper's ImageNet values for ViT-S/16 (arXiv:2204.07141 and its released code).

    entropy_weight: of the term that maximises the entropy of the mean assignment.
    """

    model_type = "sslzoo-msn"

    entropy_weight: float | int = weight(1.0)
    teacher_momentum: float | int = share(0.996)
    teacher_momentum_end: float | int = share(1.0)


class MSN(MaskedSiameseMixin, Method):
    """Prototypes are trained, without weight decay, as in the paper and its code; lightly's benchmark never trains them."""

    config_class = MSNConfig
    paper = Paper("Masked Siamese Networks for Label-Efficient Learning", "Mahmoud Assran and others", 2022, "2204.07141")

    def loss(self, views, progress):
        cross_entropy, mean_assignment = self.predict_assignments(views, progress.draw)
        # Mean entropy maximisation: how far the entropy of the mean assignment is from the largest.
        missing_entropy = math.log(len(mean_assignment)) - torch.special.entr(mean_assignment).sum()
        return {"loss": cross_entropy + self.config.entropy_weight * missing_entropy, "usage_entropy": usage_entropy(mean_assignment[None])}
