"""DINO: the student tells from any view what its moving average, the teacher, makes of another global view."""

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import nn

from sslzoo.encoders import feature_width, features
from sslzoo.method import Method, MethodConfig, Paper, Reported
from sslzoo.optim import ParameterGroup, decayed_and_not
from sslzoo.parts.ema import ema_update, frozen_copy, momentum_schedule
from sslzoo.parts.forward_views import forward_views
from sslzoo.parts.gather import gather
from sslzoo.parts.heads import mlp
from sslzoo.parts.hyperparameters import count_or_none, dim, layers, positive, rows, share
from sslzoo.parts.usage import usage_entropy
from sslzoo.views import View


@strict
class DINOConfig(MethodConfig):
    """The official ResNet-50 values (arXiv:2104.14294), except for 6 local views instead of 8, as in the reference table.

    hidden_layers: linear layers in front of the bottleneck. head_norm: batch norm in them.
    frozen_epochs: epochs in which the last layer does not move. published_branch: "teacher" or "student".
    """

    model_type = "sslzoo-dino"

    hidden_dim: int = dim(2048)
    hidden_layers: int = layers(2)
    bottleneck_dim: int = dim(256)
    head_norm: bool = False
    prototypes: int = rows(65536)
    student_temperature: float | int = positive(0.1)
    teacher_temperature: float | int = positive(0.04)
    center_momentum: float | int = share(0.9)
    teacher_momentum: float | int = share(0.996)
    teacher_momentum_end: float | int = share(1.0)
    frozen_epochs: int = count_or_none(1)
    published_branch: str = "teacher"

    def validate_published_branch(self):
        if self.published_branch not in ("teacher", "student"):
            raise ValueError(f"published_branch is '{self.published_branch}': choose 'teacher' or 'student'")


class DINO(Method):
    config_class = DINOConfig
    paper = Paper("Emerging Properties in Self-Supervised Vision Transformers", "Mathilde Caron and others", 2021, "2104.14294")
    reported = (
        Reported("linear_top1", 0.753, "res50", 800, None, "facebookresearch/dino"),
        Reported("knn_top1", 0.675, "res50", 800, None, "facebookresearch/dino"),
        Reported("linear_top1", 0.77, "vit-s16", 800, None, "facebookresearch/dino"),
        Reported("knn_top1", 0.745, "vit-s16", 800, None, "facebookresearch/dino"),
    )
    varied_views = ("local",)

    def __init__(self, config: DINOConfig):
        super().__init__(config)
        backbone = self.build_encoder()
        self.student = nn.ModuleDict({"backbone": backbone, "head": DINOHead(feature_width(backbone), config)})
        self.teacher = frozen_copy(self.student)
        self.register_buffer("center", torch.zeros(1, config.prototypes))
        self.post_init()

    @property
    def encoder(self):
        return getattr(self, self.config.published_branch)["backbone"]

    @staticmethod
    def views(size):
        color = {"jitter": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1, "grayscale": 0.2}
        crop = {"interpolation": "bicubic", "horizontal_flip": 0.5, **color}
        return {
            "global_1": View(size, scale=(0.14, 1.0), blur=1.0, **crop),
            "global_2": View(size, scale=(0.14, 1.0), blur=0.1, solarize=0.2, **crop),
            "local": View(max(1, size * 96 // 224), count=6, scale=(0.05, 0.14), blur=0.5, **crop),
        }

    def loss(self, views, progress):
        config = self.config
        students = forward_views(lambda view: self._scores(self.student, view), views, config.joint_views)
        with torch.no_grad():
            teachers = forward_views(lambda view: self._scores(self.teacher, view), views[:2], config.joint_views)
            targets = [((scores - self.center) / config.teacher_temperature).softmax(dim=1) for scores in teachers]
            mean = torch.stack(teachers).mean(dim=(0, 1)).unsqueeze(0)
        guesses = [(scores / config.student_temperature).log_softmax(dim=1) for scores in students]
        # The sum over all pairs of a target and another view's guess, as (sum of targets) times (sum of guesses) less the pairs of a
        # view with itself: two products instead of 2 * views.
        every = (targets[0] + targets[1]) * torch.stack(guesses).sum(dim=0)
        itself = targets[0] * guesses[0] + targets[1] * guesses[1]
        pairs = 2 * len(views) - 2
        loss = -(every - itself).sum(dim=1).mean() / pairs
        return {"loss": loss, "usage_entropy": usage_entropy(torch.cat(targets)), "teacher_mean": mean}

    def after_step(self, out, progress):
        config = self.config
        mean = gather(out["teacher_mean"]).mean(dim=0, keepdim=True)
        self.center.lerp_(mean, 1 - config.center_momentum)
        ema_update(self.teacher, self.student, momentum_schedule(config.teacher_momentum, config.teacher_momentum_end, progress.fraction))

    def parameter_groups(self):
        last = self.student["head"].prototypes
        return [*decayed_and_not(self, without=[last]), ParameterGroup([last], frozen_epochs=self.config.frozen_epochs)]

    @staticmethod
    def _scores(branch, pixels):
        return branch["head"](features(branch["backbone"], pixels)).float()


class DINOHead(nn.Module):
    """A GELU MLP to a bottleneck on the unit sphere, and cosines to prototypes: the weight-normalised layer whose gain stays 1."""

    def __init__(self, width: int, config: DINOConfig):
        super().__init__()
        widths = (width, *[config.hidden_dim] * config.hidden_layers, config.bottleneck_dim)
        self.mlp = mlp(widths, norm=nn.BatchNorm1d if config.head_norm else None, activation=nn.GELU)
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        self.prototypes = nn.Parameter(nn.Linear(config.bottleneck_dim, config.prototypes, bias=False).weight.detach())

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return F.linear(F.normalize(self.mlp(inputs), dim=1), F.normalize(self.prototypes, dim=1))
