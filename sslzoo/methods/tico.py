"""TiCo: two views agree, while embeddings avoid the directions in which the running covariance of all embeddings is large."""

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict

from sslzoo.encoders import feature_width
from sslzoo.method import Method, MethodConfig
from sslzoo.paper import Paper
from sslzoo.parts.cosine import negative_cosine
from sslzoo.parts.ema import ema_update, frozen_copy, momentum_schedule
from sslzoo.parts.gather import gather
from sslzoo.parts.hyperparameters import dim, share, weight
from sslzoo.parts.networks import Branch, mlp
from sslzoo.parts.precision import full_precision
from sslzoo.views.presets import byol_views


@strict
class TiCoConfig(MethodConfig):
    """The paper's ImageNet values (arXiv:2206.10698). `joint_views` has no effect: each network sees one view.

    covariance_momentum: the paper's beta, of the running covariance. rho: weight of the covariance term.
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
        self.student = Branch(backbone, mlp((feature_width(backbone), config.hidden_dim, config.projection_dim)))
        self.teacher = frozen_copy(self.student)
        self.register_buffer("covariance", torch.zeros(config.projection_dim, config.projection_dim))
        self.post_init()

    @property
    def encoder(self):
        return self.student.backbone

    @staticmethod
    def views(size):
        return byol_views(size, interpolation="bilinear")

    def loss(self, views, progress):
        first, second = views
        embeddings = F.normalize(self.student(first).float(), dim=1)
        with torch.no_grad():
            targets = self.teacher(second)
        all_embeddings = gather(embeddings.detach())
        with full_precision(embeddings.device):
            batch_covariance = all_embeddings.T @ all_embeddings / len(all_embeddings)
            # The covariance already holds this batch, but is a constant: the gradient goes through the embeddings on its sides alone.
            contrast = ((embeddings @ self._updated_covariance(batch_covariance)) * embeddings).sum(dim=1).mean()
        invariance = 1 + negative_cosine(embeddings, targets)
        loss = invariance + self.config.rho * contrast
        return {"loss": loss, "invariance": invariance, "contrast": contrast, "batch_covariance": batch_covariance[None]}

    def after_step(self, out, progress):
        config = self.config
        self.covariance.copy_(self._updated_covariance(out["batch_covariance"].mean(dim=0)))
        ema_update(self.teacher, self.student, momentum_schedule(config.teacher_momentum, config.teacher_momentum_end, progress.fraction))

    def _updated_covariance(self, batch_covariance: torch.Tensor) -> torch.Tensor:
        """The moving average of the covariances of all batches, (d, d), this one included."""
        return self.covariance.lerp(batch_covariance, 1 - self.config.covariance_momentum)
