"""BYOL: the student predicts from one view how its moving average, the teacher, embeds the other view, without any negatives."""

import torch
from huggingface_hub.dataclasses import strict

from sslzoo.encoders import feature_width
from sslzoo.method import Method, MethodConfig
from sslzoo.paper import Paper, Reported
from sslzoo.parts.cosine import negative_cosine
from sslzoo.parts.ema import ema_update, frozen_copy, momentum_schedule
from sslzoo.parts.hyperparameters import dim, share, weight
from sslzoo.parts.networks import Branch, forward_views, mlp
from sslzoo.views.presets import byol_views


@strict
class BYOLConfig(MethodConfig):
    """The paper's ImageNet values for 1000 epochs (arXiv:2006.07733, section 3.3); its code forwards the views one by one.

    hidden_dim: of the projector and of the predictor.
    loss_scale: factor of the negative cosine, averaged over both directions. 4 gives the paper's loss up to a constant: squared distances
    of unit vectors (2 - 2 cosine), summed over both directions; the reference table has 1 on small data sets. With SGD it scales the
    learning rate; with LARS only that of norms and biases, where those are not adapted.
    """

    model_type = "sslzoo-byol"

    joint_views: bool = False
    hidden_dim: int = dim(4096)
    projection_dim: int = dim(256)
    loss_scale: float | int = weight(4.0)
    teacher_momentum: float | int = share(0.996)
    teacher_momentum_end: float | int = share(1.0)


class BYOL(Method):
    config_class = BYOLConfig
    paper = Paper(
        "Bootstrap your own latent: A new approach to self-supervised Learning", "Jean-Bastien Grill and others", 2020, "2006.07733"
    )
    reported = (Reported("linear_top1", 0.744, "res50", 1000, 4096, "google-deepmind/deepmind-research"),)
    views = staticmethod(byol_views)

    def __init__(self, config: BYOLConfig):
        super().__init__(config)
        backbone = self.build_encoder()
        self.student = Branch(backbone, mlp((feature_width(backbone), config.hidden_dim, config.projection_dim)))
        self.teacher = frozen_copy(self.student)
        self.predictor = mlp((config.projection_dim, config.hidden_dim, config.projection_dim))
        self.post_init()

    @property
    def encoder(self):
        return self.student.backbone

    def loss(self, views, progress):
        predictions = forward_views(self, lambda view: self.predictor(self.student(view)), views)
        with torch.no_grad():
            targets = forward_views(self, self.teacher, views)
        both_directions = negative_cosine(predictions[0], targets[1]) + negative_cosine(predictions[1], targets[0])
        return {"loss": self.config.loss_scale * both_directions / 2}

    def after_step(self, out, progress):
        config = self.config
        ema_update(self.teacher, self.student, momentum_schedule(config.teacher_momentum, config.teacher_momentum_end, progress.fraction))
