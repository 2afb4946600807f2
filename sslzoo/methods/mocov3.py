"""MoCo v3: a view identifies the other view of its image, embedded by a slowly moving encoder, among those of the batch's other images."""

from functools import partial

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from sslzoo.encoders import blocks, embedding_parts, feature_width
from sslzoo.errors import InputError
from sslzoo.method import Method, MethodConfig
from sslzoo.paper import Paper, Reported
from sslzoo.parts.chunks import in_chunks
from sslzoo.parts.ema import ema_update, frozen_copy, momentum_schedule
from sslzoo.parts.gather import gather, rank
from sslzoo.parts.hyperparameters import dim, layers, positive, share
from sslzoo.parts.networks import Branch, forward_views, mlp
from sslzoo.parts.precision import full_precision
from sslzoo.parts.transformer_init import init_embeddings, xavier_linear
from sslzoo.views.presets import byol_views


@strict
class MoCoV3Config(MethodConfig):
    """The paper's values for ViTs on ImageNet (arXiv:2104.02057). Its ResNet-50 has one hidden layer, no last norm and temperature 1.0.

    predictor_norm: whether a batch norm without affine parameters ends the predictor, as one ends the projector.
    """

    model_type = "sslzoo-mocov3"

    encoder: PreTrainedConfig | str | dict = "vit-s16-h12"
    hidden_dim: int = dim(4096)
    hidden_layers: int = layers(2)
    projection_dim: int = dim(256)
    predictor_norm: bool = True
    temperature: float | int = positive(0.2)
    teacher_momentum: float | int = share(0.99)
    teacher_momentum_end: float | int = share(1.0)


class MoCoV3(Method):
    """Transformers without windows have the paper's initialisation, fixed sine-cosine positions and an untrained patch projection."""

    config_class = MoCoV3Config
    paper = Paper("An Empirical Study of Training Self-Supervised Vision Transformers", "Xinlei Chen and others", 2021, "2104.02057")
    reported = (
        Reported("linear_top1", 0.732, "vit-s16-h12", 300, 4096, "facebookresearch/moco-v3"),
        Reported("finetune_top1", 0.814, "vit-s16-h12", 300, 4096, "facebookresearch/moco-v3"),
        Reported("linear_top1", 0.767, "vit-b16", 300, 4096, "facebookresearch/moco-v3"),
        Reported("finetune_top1", 0.832, "vit-b16", 300, 4096, "facebookresearch/moco-v3"),
        Reported("linear_top1", 0.689, "res50", 100, 4096, "facebookresearch/moco-v3"),
        Reported("linear_top1", 0.728, "res50", 300, 4096, "facebookresearch/moco-v3"),
        Reported("linear_top1", 0.746, "res50", 1000, 4096, "facebookresearch/moco-v3"),
    )
    frozen = ("backbone.embeddings.position_embeddings", "backbone.embeddings.patch_embeddings.projection")

    def __init__(self, config: MoCoV3Config):
        super().__init__(config)
        backbone = self.build_encoder()
        _init_transformer(backbone)
        hidden, width = config.hidden_dim, config.projection_dim
        last_norm = partial(nn.BatchNorm1d, affine=False)
        projector = mlp((feature_width(backbone), *[hidden] * config.hidden_layers, width), last_norm=last_norm)
        self.query = Branch(backbone, projector)
        # The identity in the place of a norm: no linear layer has a bias.
        self.predictor = mlp((width, hidden, width), last_norm=last_norm if config.predictor_norm else nn.Identity)
        self.key = frozen_copy(self.query)
        self.post_init()

    @property
    def encoder(self):
        return self.query.backbone

    @staticmethod
    def views(size):
        return byol_views(size, interpolation="bilinear")

    def loss(self, views, progress):
        first, second = forward_views(self, self._queries, views)
        with torch.no_grad():
            first_keys, second_keys = forward_views(self, self._keys, views)
        temperature = self.config.temperature
        return {"loss": contrast(first, second_keys, temperature) + contrast(second, first_keys, temperature)}

    def after_step(self, out, progress):
        # The paper moves the keys' encoder in each step between queries and keys. This is the move of the next step: no key lies between.
        fraction = (progress.step + 1) / progress.steps
        ema_update(self.key, self.query, momentum_schedule(self.config.teacher_momentum, self.config.teacher_momentum_end, fraction))

    def _queries(self, pixels):
        return F.normalize(self.predictor(self.query(pixels)).float(), dim=1)

    def _keys(self, pixels):
        return F.normalize(self.key(pixels).float(), dim=1)


def contrast(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """2 temperature times the mean cross entropy with which each query identifies its own key among those of all devices.

    queries, keys: (n, d), normalised, row i of both from image i. The factor keeps the gradient's size at any temperature.
    """
    all_keys = gather(keys)
    own = torch.arange(len(queries), device=queries.device) + rank() * len(queries)

    def cross_entropies(queries: Tensor, own: Tensor) -> Tensor:
        with full_precision(queries.device):
            logits = queries @ all_keys.T / temperature
        return F.cross_entropy(logits, own, reduction="none")

    return 2 * temperature * in_chunks(cross_entropies, (queries, own), len(all_keys)).mean()


def _init_transformer(backbone: PreTrainedModel) -> None:
    try:
        blocks(backbone)
    except InputError:  # convolutions and windows
        return
    backbone.apply(xavier_linear)
    init_embeddings(backbone, class_token_std=1e-6)
    embedding_parts(backbone).projection.requires_grad_(False)  # which makes training stable
