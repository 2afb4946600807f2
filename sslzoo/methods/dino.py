"""DINO: the student predicts from any view to which prototypes its moving average, the teacher, assigns another global view."""

from functools import partial

import torch
from huggingface_hub.dataclasses import strict
from torch import nn

from sslzoo.encoders import feature_width, features
from sslzoo.method import Method, MethodConfig
from sslzoo.optim import ParameterGroup, decay_groups
from sslzoo.paper import Paper, Reported
from sslzoo.parts.dino_head import DINOHead
from sslzoo.parts.ema import ema_update, frozen_copy, momentum_schedule
from sslzoo.parts.gather import gather
from sslzoo.parts.hyperparameters import count_or_none, dim, layers, positive, rows, share
from sslzoo.parts.networks import forward_views
from sslzoo.parts.swapped_prediction import swapped_cross_entropy
from sslzoo.parts.temperature import warmed_up
from sslzoo.parts.usage import usage_entropy
from sslzoo.views.presets import dino_views


@strict
class DINOConfig(MethodConfig):
    """The official ResNet-50 values (arXiv:2104.14294), except for 6 local views instead of 8, as in the reference table.

    hidden_layers: linear layers before the bottleneck. bottleneck_dim: width before the prototypes.
    head_norm: whether batch norms follow the hidden layers. frozen_epochs: first epochs, in which the prototypes are not
        trained. published_branch: "teacher" or "student".
    warmup_teacher_temperature: where teacher_temperature starts, on a line over the first warmup_teacher_temperature_epochs; 0: it stays.
        The paper's ViTs go from 0.04 to 0.07 in 30 epochs. warmup_teacher_temperature_epochs: how many epochs that takes.
    center_momentum: share of the centre of the teacher's logits that stays at each step.
    """

    model_type = "sslzoo-dino"

    hidden_dim: int = dim(2048)
    hidden_layers: int = layers(2)
    bottleneck_dim: int = dim(256)
    head_norm: bool = False
    prototypes: int = rows(65536)
    student_temperature: float | int = positive(0.1)
    teacher_temperature: float | int = positive(0.04)
    warmup_teacher_temperature: float | int = positive(0.04)
    warmup_teacher_temperature_epochs: int = count_or_none(0)
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
        head = DINOHead(
            feature_width(backbone), config.hidden_dim, config.hidden_layers, config.bottleneck_dim, config.prototypes, config.head_norm
        )
        self.student = nn.ModuleDict({"backbone": backbone, "head": head})
        self.teacher = frozen_copy(self.student)
        self.register_buffer("center", torch.zeros(1, config.prototypes))
        self.post_init()

    @property
    def encoder(self):
        return getattr(self, self.config.published_branch)["backbone"]

    @staticmethod
    def views(size):
        return dino_views(size, threshold=0.14, local_count=6)

    def loss(self, views, progress):
        config = self.config
        teacher_probs, teacher_mean = self._assign(views[:2], progress.epoch)
        embeddings = torch.stack(forward_views(self, partial(_embed, self.student), views), dim=1)
        loss = swapped_cross_entropy(teacher_probs, embeddings, lambda rows: self.student["head"].logits(rows) / config.student_temperature)
        return {"loss": loss, "usage_entropy": usage_entropy(teacher_probs.flatten(0, 1)), "teacher_mean": teacher_mean}

    def after_step(self, out, progress):
        config = self.config
        teacher_mean = gather(out["teacher_mean"]).mean(dim=0, keepdim=True)
        self.center.lerp_(teacher_mean, 1 - config.center_momentum)
        ema_update(self.teacher, self.student, momentum_schedule(config.teacher_momentum, config.teacher_momentum_end, progress.fraction))

    def parameter_groups(self):
        prototypes = self.student["head"].prototypes
        return [*decay_groups(self, exclude=[prototypes]), ParameterGroup([prototypes], frozen_epochs=self.config.frozen_epochs)]

    @torch.no_grad()
    def _assign(self, views, epoch):
        """The teacher's probabilities of the prototypes, (n, views, prototypes), and the mean of its logits, (1, prototypes)."""
        logits = self.teacher["head"].logits(torch.stack(forward_views(self, partial(_embed, self.teacher), views), dim=1))
        config = self.config
        warmup = config.warmup_teacher_temperature, config.teacher_temperature
        temperature = warmed_up(*warmup, epoch, config.warmup_teacher_temperature_epochs)
        probs = ((logits - self.center) / temperature).softmax(dim=2)
        return probs, logits.mean(dim=(0, 1)).unsqueeze(0)


def _embed(branch, pixels):
    return branch["head"](features(branch["backbone"], pixels))
