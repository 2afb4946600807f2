"""SwAV: one view predicts the prototype assignment of another, where assignments use all prototypes equally."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import nn

from sslzoo.encoders import feature_width, features
from sslzoo.method import Method, MethodConfig
from sslzoo.optim import decay_groups
from sslzoo.paper import Paper, Reported
from sslzoo.parts.hyperparameters import count_or_none, dim, layers, positive, rows, rows_or_none
from sslzoo.parts.networks import forward_views, mlp
from sslzoo.parts.precision import full_precision
from sslzoo.parts.queue import Queue
from sslzoo.parts.sinkhorn import sinkhorn
from sslzoo.parts.swapped_prediction import swapped_cross_entropy
from sslzoo.parts.usage import usage_entropy
from sslzoo.views import View
from sslzoo.views.presets import SIMCLR_COLOR, local_size, multi_crop


@strict
class SwAVConfig(MethodConfig):
    """The official ImageNet values for batches of 256 (arXiv:2006.09882 and its released code).

    prototype_bias: the paper has none, the reference table has one.
    sinkhorn_temperature: the paper's epsilon. sinkhorn_iterations: normalisations of rows and columns of the assignments.
    queue_length: rows per global view that are assigned together with the batch, 0 for none.
    queue_from_epoch: the first epoch in which it is used.
    frozen_epochs: first epochs, in which the prototypes are not trained.
    """

    model_type = "sslzoo-swav"

    hidden_dim: int = dim(2048)
    projection_dim: int = dim(128)
    prototypes: int = rows(3000)
    prototype_bias: bool = False
    temperature: float | int = positive(0.1)
    sinkhorn_temperature: float | int = positive(0.05)
    sinkhorn_iterations: int = layers(3)
    queue_length: int = rows_or_none(3840)
    queue_from_epoch: int = count_or_none(15)
    frozen_epochs: int = count_or_none(1)


class SwAV(Method):
    config_class = SwAVConfig
    paper = Paper(
        "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments", "Mathilde Caron and others", 2020, "2006.09882"
    )
    reported = (
        Reported("linear_top1", 0.721, "res50", 100, 4096, "facebookresearch/swav"),
        Reported("linear_top1", 0.727, "res50", 200, 256, "facebookresearch/swav"),
        Reported("linear_top1", 0.753, "res50", 800, 4096, "facebookresearch/swav"),
    )
    varied_views = ("local",)

    def __init__(self, config: SwAVConfig):
        super().__init__(config)
        self.backbone = self.build_encoder()
        self.projector = mlp((feature_width(self.backbone), config.hidden_dim, config.projection_dim))
        self.prototypes = nn.Linear(config.projection_dim, config.prototypes, bias=config.prototype_bias)
        queues = 2 if config.queue_length else 0
        self.queues = nn.ModuleList(Queue(config.queue_length, config.projection_dim) for _ in range(queues))
        self.post_init()

    @staticmethod
    def views(size):
        return multi_crop(View(size, blur=0.5, **SIMCLR_COLOR), threshold=0.14, local_size=local_size(size))

    def loss(self, views, progress):
        config = self.config
        with torch.no_grad():
            self.prototypes.weight.copy_(F.normalize(self.prototypes.weight, dim=1))
        embeddings = forward_views(self, self._embed, views)
        with torch.no_grad():
            logits = [self._logits(embedding) for embedding in embeddings[:2]]
            assignments = torch.stack([self._assign(view_logits, view, progress) for view, view_logits in enumerate(logits)], dim=1)
            usage = usage_entropy((torch.cat(logits) / config.temperature).softmax(dim=1))
        loss = swapped_cross_entropy(assignments, torch.stack(embeddings, dim=1), lambda rows: self._logits(rows) / config.temperature)
        return {"loss": loss, "usage_entropy": usage, "embeddings": torch.stack(embeddings[:2], dim=1)}

    def after_step(self, out, progress):
        for view, queue in enumerate(self.queues):
            queue.enqueue(out["embeddings"][:, view])

    def parameter_groups(self):
        prototypes = [replace(group, frozen_epochs=self.config.frozen_epochs) for group in decay_groups(self.prototypes)]
        return [*decay_groups(self, exclude=self.prototypes.parameters()), *prototypes]

    @torch.no_grad()
    def _assign(self, logits, view, progress):
        """The batch's assignments to prototypes (the paper's codes); the queue's embeddings share the prototypes equally with them."""
        config = self.config
        count = len(logits)
        if self.queues and progress.epoch >= config.queue_from_epoch:
            logits = torch.cat((logits, self._logits(self.queues[view].local_rows())))
        return sinkhorn(logits, config.sinkhorn_temperature, config.sinkhorn_iterations)[:count]

    def _logits(self, embeddings):
        """In the embeddings' precision, also where the weights have less."""
        weight, bias = (value if value is None else value.to(embeddings.dtype) for value in (self.prototypes.weight, self.prototypes.bias))
        with full_precision(embeddings.device):
            return F.linear(embeddings, weight, bias)

    def _embed(self, pixels):
        return F.normalize(self.projector(features(self.backbone, pixels)).float(), dim=1)
