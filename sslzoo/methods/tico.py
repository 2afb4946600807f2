"""TiCo: two views agree, while embeddings keep off the directions that the running covariance of all embeddings says are crowded."""

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import nn

from sslzoo.encoders import feature_width, features
from sslzoo.method import Method, MethodConfig, Paper
from sslzoo.parts.cosine import negative_cosine
from sslzoo.parts.ema import ema_update, frozen_copy, momentum_schedule
from sslzoo.parts.gather import gather
from sslzoo.parts.heads import mlp
from sslzoo.parts.hyperparameters import dim, share, weight
from sslzoo.parts.precision import full_precision
from sslzoo.views import View


@strict
class TiCoConfig(MethodConfig):
    """The paper's ImageNet values (arXiv:2206.10698). `joint_views` changes nothing: each network sees one view.

    covariance_momentum: beta, how much of the covariance stays from step to step. rho: weight of the covariance term.
    """

    model_type = "sslzoo-tico"

    hidden_dim: int = dim(4096)
    projection_dim: int = dim(256)
    covariance_momentum: float | int = share(0.9)
    rho: float | int = weight(8.0)
    teacher_momentum: float | int = share(0.99)
    teacher_momentum_end: float | int = share(1.0)


class TiCo(Method):
    config_class = TiCoConfig
    paper = Paper(
        "TiCo: Transformation Invariance and Covariance Contrast for Self-Supervised Visual Representation Learning",
        "Jiachen Zhu and others", 2022, "2206.10698",
    )  # fmt: skip

    def __init__(self, config: TiCoConfig):
        super().__init__(config)
        backbone = self.build_encoder()
        projector = mlp((feature_width(backbone), config.hidden_dim, config.projection_dim))
        self.student = nn.ModuleDict({"backbone": backbone, "projector": projector})
        self.teacher = frozen_copy(self.student)
        self.register_buffer("covariance", torch.zeros(config.projection_dim, config.projection_dim))
        self.post_init()

    @property
    def encoder(self):
        return self.student["backbone"]

    @staticmethod
    def views(size):
        color = {"jitter": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1, "grayscale": 0.2}
        crop = {"scale": (0.08, 1.0), "horizontal_flip": 0.5, **color}
        return {"first": View(size, blur=1.0, **crop), "second": View(size, blur=0.1, solarize=0.2, **crop)}

    def loss(self, views, progress):
        first, second = views
        student = F.normalize(self._project(self.student, first).float(), dim=1)
        with torch.no_grad():
            teacher = self._project(self.teacher, second)
        every = gather(student.detach())
        with full_precision(student.device):
            batch = every.T @ every / len(every)
            # The covariance already holds this batch, but is a constant: the gradient goes through the embeddings on its sides alone.
            contrast = ((student @ self._moved(batch)) * student).sum(dim=1).mean()
        invariance = 1 + negative_cosine(student, teacher)
        loss = invariance + self.config.rho * contrast
        return {"loss": loss, "invariance": invariance, "contrast": contrast, "batch_covariance": batch[None]}

    def after_step(self, out, progress):
        config = self.config
        self.covariance.copy_(self._moved(out["batch_covariance"].mean(dim=0)))
        ema_update(self.teacher, self.student, momentum_schedule(config.teacher_momentum, config.teacher_momentum_end, progress.fraction))

    def _moved(self, batch: torch.Tensor) -> torch.Tensor:
        """The running covariance one step on, (d, d), with that of the batch."""
        return self.covariance.lerp(batch, 1 - self.config.covariance_momentum)

    @staticmethod
    def _project(branch, pixels):
        return branch["projector"](features(branch["backbone"], pixels))
