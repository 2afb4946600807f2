"""SMoG: a view predicts the group of the other view, while the groups themselves move with every batch."""

from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import nn

from sslzoo.encoders import feature_width
from sslzoo.method import Method, MethodConfig
from sslzoo.paper import Paper
from sslzoo.parts.ema import ema_update, frozen_copy
from sslzoo.parts.gather import gather
from sslzoo.parts.hyperparameters import count, dim, positive, rows, share
from sslzoo.parts.kmeans import kmeans
from sslzoo.parts.networks import Branch, mlp
from sslzoo.parts.precision import full_precision
from sslzoo.parts.queue import Queue
from sslzoo.parts.usage import usage_entropy
from sslzoo.views import View
from sslzoo.views.presets import BYOL_COLOR


@strict
class SMoGConfig(MethodConfig):
    """The paper's 3000 groups (arXiv:2207.06167); the other values, and the views, are those of the reference table.

    groups: vectors that images are assigned to. group_momentum: share of them that stays at each step.
    reset_every: steps after which the groups are reset to the k-means centres of the last queue_length projections.
    """

    model_type = "sslzoo-smog"

    hidden_dim: int = dim(2048)
    projection_dim: int = dim(128)
    prediction_dim: int = dim(2048)
    groups: int = rows(3000)
    temperature: float | int = positive(0.1)
    group_momentum: float | int = share(0.99)
    teacher_momentum: float | int = share(0.99)
    reset_every: int = count(300)
    queue_length: int = rows(10000)


class SMoG(Method):
    config_class = SMoGConfig
    paper = Paper("Unsupervised Visual Representation Learning by Synchronous Momentum Grouping", "Bo Pang and others", 2022, "2207.06167")

    def __init__(self, config: SMoGConfig):
        super().__init__(config)
        backbone = self.build_encoder()
        widths = (feature_width(backbone), config.hidden_dim, config.projection_dim)
        self.online = Branch(backbone, mlp(widths, last_norm=partial(nn.BatchNorm1d, affine=False)))
        self.teacher = frozen_copy(self.online)
        self.predictor = mlp((config.projection_dim, config.prediction_dim, config.projection_dim))
        self.register_buffer("groups", F.normalize(torch.rand(config.groups, config.projection_dim), dim=1))
        self.queue = Queue(config.queue_length, config.projection_dim)
        self.post_init()

    @property
    def encoder(self):
        return self.online.backbone

    @staticmethod
    def views(size):
        crop = {"scale": (0.2, 1.0), **BYOL_COLOR, "jitter": 1.0}
        return {"first": View(size, blur=0.5, **crop), "second": View(size, blur=0.1, solarize=0.2, **crop)}

    def loss(self, views, progress):
        online_view, teacher_view = views if progress.step % 2 == 0 else reversed(views)
        projections = self.online(online_view).float()
        predictions = self.predictor(projections.to(self.predictor[0].weight.dtype)).float()
        with torch.no_grad():
            assignments = self._assign(self.teacher(teacher_view).float())
        # The groups move towards the batch before predictions are compared with them, so that their gradient reaches the projections.
        groups = self._updated_groups(gather(projections))
        with full_precision(predictions.device):
            logits = F.normalize(predictions, dim=1) @ F.normalize(groups, dim=1).T / self.config.temperature
        usage = usage_entropy(F.one_hot(assignments, len(groups)))
        return {"loss": F.cross_entropy(logits, assignments), "usage_entropy": usage, "projections": projections}

    def after_step(self, out, progress):
        config = self.config
        self.groups.copy_(self._updated_groups(gather(out["projections"])))
        self.queue.enqueue(out["projections"])
        if (progress.step + 1) % config.reset_every:
            ema_update(self.teacher, self.online, config.teacher_momentum)
            return
        noise = replace(progress, samples=torch.arange(config.groups, device=self.groups.device)).draw(1)[:, 0]
        centers = F.normalize(kmeans(self.queue.rows, noise), dim=1)
        self.groups.copy_(gather(centers)[: config.groups])  # the first process's, so that rounding does not make processes differ
        self.teacher.load_state_dict(self.online.state_dict())

    def _assign(self, projections):
        """The index of the most similar group for each projection (n, d): int64 (n,)."""
        with full_precision(projections.device):
            return (projections @ F.normalize(self.groups, dim=1).T).argmax(dim=1)

    def _updated_groups(self, projections):
        """The groups (groups, d), those with members among the projections (n, d) moved a small step towards their members' mean."""
        assignments = self._assign(projections.detach())
        members = (torch.arange(len(self.groups), device=projections.device)[:, None] == assignments).to(projections.dtype)
        counts = members.sum(dim=1, keepdim=True)
        with full_precision(projections.device):
            means = members @ projections / counts.clamp(min=1)
        return self.groups + (1 - self.config.group_momentum) * ((counts > 0) * (means - self.groups))
