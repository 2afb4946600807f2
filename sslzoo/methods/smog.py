"""SMoG: a view finds the group to which the other view belongs, while the groups themselves move with every batch."""

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import nn

from sslzoo.encoders import feature_width, features
from sslzoo.method import Method, MethodConfig, Paper
from sslzoo.parts.ema import ema_update, frozen_copy
from sslzoo.parts.gather import gather
from sslzoo.parts.heads import mlp
from sslzoo.parts.hyperparameters import count, dim, positive, rows, share
from sslzoo.parts.kmeans import kmeans
from sslzoo.parts.precision import full_precision
from sslzoo.parts.queue import Queue
from sslzoo.parts.usage import usage_entropy
from sslzoo.views import View


@strict
class SMoGConfig(MethodConfig):
    """The paper's 3000 groups (arXiv:2207.06167); the other values, and the views, are those of the reference table.

    group_momentum: of the groups, each step. reset_every: steps between two k-means over the last queue_length projections, which
    place the groups afresh.
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
        projector = mlp(widths, last_norm=lambda width: nn.BatchNorm1d(width, affine=False))
        self.online = nn.ModuleDict({"backbone": backbone, "projector": projector})
        self.teacher = frozen_copy(self.online)
        self.predictor = mlp((config.projection_dim, config.prediction_dim, config.projection_dim))
        self.register_buffer("groups", F.normalize(torch.rand(config.groups, config.projection_dim), dim=1))
        self.queue = Queue(config.queue_length, config.projection_dim)
        self.post_init()

    @property
    def encoder(self):
        return self.online["backbone"]

    @staticmethod
    def views(size):
        color = {"jitter": 1.0, "brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1, "grayscale": 0.2}
        crop = {"scale": (0.2, 1.0), "horizontal_flip": 0.5, **color}
        return {"first": View(size, blur=0.5, **crop), "second": View(size, blur=0.1, solarize=0.2, **crop)}

    def loss(self, views, progress):
        seen, other = views if progress.step % 2 == 0 else reversed(views)
        projection = self._project(self.online, seen)
        guess = self.predictor(projection).float()
        with torch.no_grad():
            target = self._nearest(self._project(self.teacher, other))
        # The groups have moved towards the batch before they are compared with: their gradient reaches the projections.
        groups = self._moved(gather(projection))
        with full_precision(guess.device):
            logits = F.normalize(guess, dim=1) @ F.normalize(groups, dim=1).T / self.config.temperature
        usage = usage_entropy(F.one_hot(target, len(groups)))
        return {"loss": F.cross_entropy(logits, target), "usage_entropy": usage, "projection": projection}

    def after_step(self, out, progress):
        config = self.config
        self.groups.copy_(self._moved(gather(out["projection"])))
        self.queue.enqueue(out["projection"])
        if (progress.step + 1) % config.reset_every:
            ema_update(self.teacher, self.online, config.teacher_momentum)
            return
        noise = progress._replace(samples=torch.arange(config.groups, device=self.groups.device)).draw(1)[:, 0]
        centers = F.normalize(kmeans(self.queue.rows, noise), dim=1)
        self.groups.copy_(gather(centers)[: config.groups])  # the first process's, lest rounding sets processes apart
        self.teacher.load_state_dict(self.online.state_dict())

    def _nearest(self, rows):
        with full_precision(rows.device):
            return (rows @ F.normalize(self.groups, dim=1).T).argmax(dim=1)

    def _moved(self, rows):
        """The groups (groups, d), those with members among the rows (n, d) a small step towards their mean."""
        nearest = self._nearest(rows.detach())
        members = (torch.arange(len(self.groups), device=rows.device)[:, None] == nearest).to(rows.dtype)
        counts = members.sum(dim=1, keepdim=True)
        with full_precision(rows.device):
            means = members @ rows / counts.clamp(min=1)
        return self.groups + (1 - self.config.group_momentum) * ((counts > 0) * (means - self.groups))

    @staticmethod
    def _project(branch, pixels):
        return branch["projector"](features(branch["backbone"], pixels)).float()
