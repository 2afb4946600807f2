"""SEED: a student learns the similarities that a frozen teacher sees between an image and a queue of others."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict

from sslzoo.encoders import feature_width, features
from sslzoo.method import Method, MethodConfig
from sslzoo.paper import Paper, Reported
from sslzoo.parts.chunks import in_chunks
from sslzoo.parts.distillation import DistillationConfig, DistillationMixin
from sslzoo.parts.hyperparameters import positive, rows
from sslzoo.parts.networks import mlp
from sslzoo.parts.precision import full_precision
from sslzoo.parts.queue import Queue
from sslzoo.views.presets import moco_views


@strict
class SEEDConfig(DistillationConfig, MethodConfig):
    """The paper's values (arXiv:2101.04731) but for the embeddings' width, which is that of the teacher's features.

    student_temperature, teacher_temperature: of the two distributions over the queue; the released code's default for the teacher is 1e-4.
    queue_length: embeddings of recent batches.
    """

    model_type = "sslzoo-seed"

    student_temperature: float | int = positive(0.2)
    teacher_temperature: float | int = positive(0.01)
    queue_length: int = rows(65536)


class SEED(DistillationMixin, Method):
    """The teacher is its encoder alone, as most are published without the projector that the paper's MoCo v2 teachers keep (128 wide).

    The queue comes with the teacher, random unit vectors at first. It is in checkpoints and not in what is published: whoever goes on from
    a published model fills it anew.
    """

    config_class = SEEDConfig
    paper = Paper("SEED: Self-supervised Distillation for Visual Representation", "Zhiyuan Fang and others", 2021, "2101.04731")
    reported = (Reported("linear_top1", 0.743, "res50", None, None, "jacobswan1/SEED"),)
    unpublished = ("queue.",)

    def __init__(self, config: SEEDConfig):
        super().__init__(config)
        self.backbone = self.build_encoder()
        width = feature_width(self.backbone)
        self.projector = mlp((width, width, config.teacher_dim), norm=None)
        self.post_init()

    @staticmethod
    def views(size):
        """One of MoCo v2's views, which the teacher sees too."""
        return {"single": replace(moco_views(size)["both"], count=1)}

    def set_teacher(self, teacher):
        super().set_teacher(teacher)
        self.queue = Queue(self.config.queue_length, self.config.teacher_dim).to(self.device)

    def loss(self, views, progress):
        (view,) = views
        targets = self.teacher_features(view)
        embeddings = F.normalize(self.projector(features(self.backbone, view)).float(), dim=1)
        # This step's targets join the queue after it, so that each image meets its own once, as the first of its columns.
        cross_entropies = in_chunks(self._cross_entropies, (embeddings, targets), 1 + self.config.queue_length)
        return {"loss": cross_entropies.mean(), "targets": targets}

    def after_step(self, out, progress):
        self.queue.enqueue(out["targets"])

    def _cross_entropies(self, embeddings, targets):
        student_log_probs = (self._similarities(embeddings, targets) / self.config.student_temperature).log_softmax(dim=1)
        teacher_probs = (self._similarities(targets, targets) / self.config.teacher_temperature).softmax(dim=1)
        return -(teacher_probs * student_log_probs).sum(dim=1)

    def _similarities(self, embeddings, targets):
        with full_precision(embeddings.device):
            queue = embeddings @ self.queue.rows.T
        return torch.cat(((embeddings * targets).sum(dim=1, keepdim=True), queue), dim=1)
