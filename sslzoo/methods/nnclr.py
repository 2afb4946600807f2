"""NNCLR: SimCLR in which the nearest neighbour of a view, among recent images, stands in for the view itself."""

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import nn

from sslzoo.encoders import feature_width, features
from sslzoo.method import Method, MethodConfig
from sslzoo.paper import Paper, Reported
from sslzoo.parts.chunks import in_chunks
from sslzoo.parts.gather import gather, rank
from sslzoo.parts.hyperparameters import dim, layers, positive, rows
from sslzoo.parts.networks import forward_views, mlp
from sslzoo.parts.precision import full_precision
from sslzoo.parts.queue import Queue
from sslzoo.views.presets import simclr_views


@strict
class NNCLRConfig(MethodConfig):
    """The paper's ImageNet values (arXiv:2104.14548, section 3.3 and 4.1).

    hidden_layers: linear layers of the projector before its last one.
    """

    model_type = "sslzoo-nnclr"

    hidden_dim: int = dim(2048)
    hidden_layers: int = layers(2)
    projection_dim: int = dim(256)
    prediction_dim: int = dim(4096)
    temperature: float | int = positive(0.1)
    queue_length: int = rows(98304)


class NNCLR(Method):
    config_class = NNCLRConfig
    paper = Paper(
        "With a Little Help from My Friends: Nearest-Neighbor Contrastive Learning of Visual Representations",
        "Debidatta Dwibedi and others", 2021, "2104.14548",
    )  # fmt: skip
    reported = (Reported("linear_top1", 0.756, "res50", None, None, "the paper's abstract"),)
    views = staticmethod(simclr_views)

    def __init__(self, config: NNCLRConfig):
        super().__init__(config)
        self.backbone = self.build_encoder()
        widths = (feature_width(self.backbone), *[config.hidden_dim] * config.hidden_layers, config.projection_dim)
        self.projector = mlp(widths, last_norm=nn.BatchNorm1d)
        self.predictor = mlp((config.projection_dim, config.prediction_dim, config.projection_dim))
        self.queue = Queue(config.queue_length, config.projection_dim)
        self.post_init()

    def loss(self, views, progress):
        projections = forward_views(self, lambda view: self.projector(features(self.backbone, view)), views)
        first, second = (F.normalize(rows.float(), dim=1) for rows in forward_views(self, self.predictor, projections))
        with torch.no_grad():
            embeddings = [F.normalize(projection.float(), dim=1) for projection in projections]
            neighbors = [self._nearest_neighbors(rows) for rows in embeddings]
        loss = (self._contrast(neighbors[0], second) + self._contrast(neighbors[1], first)) / 2
        return {"loss": loss, "embeddings": embeddings[0]}

    def after_step(self, out, progress):
        self.queue.enqueue(out["embeddings"])

    def _nearest_neighbors(self, rows):
        """For each of the rows (n, d) the most similar row of the queue."""
        with full_precision(rows.device):
            return self.queue.rows[(rows @ self.queue.rows.T).argmax(dim=1)]

    def _contrast(self, neighbors, predictions):
        """The paper's loss, made symmetric: neighbours find their prediction among all predictions, and predictions their neighbour."""
        # The reference code of the table uses SimCLR's loss instead, in which predictions are negatives of predictions too.
        labels = torch.arange(len(predictions), device=predictions.device) + rank() * len(predictions)
        losses = [
            self._cross_entropies(rows, gather(candidates), labels)
            for rows, candidates in ((neighbors, predictions), (predictions, neighbors))
        ]
        return torch.stack(losses).mean()

    def _cross_entropies(self, rows, candidates, labels):
        def cross_entropies(rows, labels):
            with full_precision(rows.device):
                logits = rows @ candidates.T / self.config.temperature
            return F.cross_entropy(logits, labels, reduction="none")

        return in_chunks(cross_entropies, (rows, labels), len(candidates))
