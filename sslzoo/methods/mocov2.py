"""MoCo v2: a view identifies the other view of its image, embedded by a slowly moving encoder, among a long queue of other images."""

from functools import partial

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict

from sslzoo.encoders import feature_width
from sslzoo.method import Method, MethodConfig
from sslzoo.paper import Paper, Reported
from sslzoo.parts.chunks import in_chunks
from sslzoo.parts.ema import ema_update, frozen_copy
from sslzoo.parts.hyperparameters import count, dim, positive, rows, share
from sslzoo.parts.networks import Branch, forward_views, mlp
from sslzoo.parts.precision import full_precision
from sslzoo.parts.queue import Queue
from sslzoo.parts.split_batch_norm import split_batch_norms
from sslzoo.views.presets import moco_views


@strict
class MoCoV2Config(MethodConfig):
    """The paper's ImageNet values (arXiv:2003.04297).

    symmetric: each view is a query once; else the second view alone, as in the paper.
    batch_norm_splits: groups into which batch norms split each device's batch, the keys in another order than the queries: the released
    code's substitute for shuffling over several devices (8 on CIFAR).
    """

    model_type = "sslzoo-mocov2"

    hidden_dim: int = dim(2048)
    projection_dim: int = dim(128)
    temperature: float | int = positive(0.2)
    queue_length: int = rows(65536)
    teacher_momentum: float | int = share(0.999)
    symmetric: bool = False
    batch_norm_splits: int = count(1)


class MoCoV2(Method):
    config_class = MoCoV2Config
    paper = Paper("Improved Baselines with Momentum Contrastive Learning", "Xinlei Chen and others", 2020, "2003.04297")
    reported = (
        Reported("linear_top1", 0.677, "res50", 200, 256, "facebookresearch/moco"),
        Reported("linear_top1", 0.711, "res50", 800, 256, "facebookresearch/moco"),
    )
    views = staticmethod(moco_views)

    def __init__(self, config: MoCoV2Config):
        super().__init__(config)
        backbone = self.build_encoder()
        if config.batch_norm_splits > 1:
            split_batch_norms(backbone, config.batch_norm_splits)
        projector = mlp((feature_width(backbone), config.hidden_dim, config.projection_dim), norm=None)
        self.query = Branch(backbone, projector)
        self.key = frozen_copy(self.query)
        self.queue = Queue(config.queue_length, config.projection_dim)
        self.post_init()

    @property
    def encoder(self):
        return self.query.backbone

    def loss(self, views, progress):
        config = self.config
        first, second = views
        query_views, key_views = ([second, first], [first, second]) if config.symmetric else ([second], [first])
        queries = forward_views(self, partial(_embed, self.query), query_views)
        with torch.no_grad():
            keys = self._keys(key_views, progress)
        # This step's keys join the queue after it, so no query has its own image among its negatives.
        losses = [self._contrast(query, key) for query, key in zip(queries, keys, strict=True)]
        return {"loss": torch.stack(losses).mean(), "keys": torch.stack(keys, dim=1)}

    def after_step(self, out, progress):
        self.queue.enqueue(out["keys"].flatten(0, 1))
        ema_update(self.key, self.query, self.config.teacher_momentum)

    def _keys(self, views, progress):
        embed = partial(_embed, self.key)
        if self.config.batch_norm_splits == 1:
            return forward_views(self, embed, views)
        shuffle = progress.draw(1)[:, 0].argsort()
        keys = forward_views(self, embed, [view[shuffle] for view in views])
        unshuffle = shuffle.argsort()
        return [shuffled[unshuffle] for shuffled in keys]

    def _contrast(self, query, key):
        def cross_entropies(query, key):
            with full_precision(query.device):
                negatives = query @ self.queue.rows.T
            positives = (query * key).sum(dim=1, keepdim=True)
            logits = torch.cat((positives, negatives), dim=1) / self.config.temperature
            return logits.logsumexp(dim=1) - logits[:, 0]

        return in_chunks(cross_entropies, (query, key), self.config.queue_length).mean()


def _embed(branch: Branch, pixels: torch.Tensor) -> torch.Tensor:
    return F.normalize(branch(pixels).float(), dim=1)
