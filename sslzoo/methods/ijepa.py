"""I-JEPA: from some patches of an image, a predictor gives the features that a moving average of the encoder has of blocks of others."""

import math

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, ViTConfig, ViTModel

from sslzoo.encoders import blocks, embedding_parts, freeze_pooling, residual_branches, token_grid, tokens
from sslzoo.errors import InputError
from sslzoo.method import Method, MethodConfig
from sslzoo.paper import Paper, Reported
from sslzoo.parts.block_masks import jepa_columns, jepa_masks, most_targets
from sslzoo.parts.ema import ema_update, frozen_copy, linear_momentum_schedule
from sslzoo.parts.hyperparameters import dim, layers, share
from sslzoo.parts.masking import gather_tokens
from sslzoo.parts.positions import sincos_positions
from sslzoo.views import View


@strict
class IJEPAConfig(MethodConfig):
    """The paper's ImageNet values for ViT-B/16 (arXiv:2301.08243), but for the size of the context.

    context_ratio: share of the patches that the encoder sees, always as many: about what the paper's are cut to (see `jepa_masks`).
    predictor_dim: width of the predictor. predictor_depth: its blocks; the paper's ViT-L and ViT-H have 12.
    """

    model_type = "sslzoo-ijepa"

    encoder: PreTrainedConfig | str | dict = "ijepa-b16"
    context_ratio: float | int = share(0.25)
    predictor_dim: int = dim(384)
    predictor_depth: int = layers(6)
    teacher_momentum: float | int = share(0.996)
    teacher_momentum_end: float | int = share(1.0)

    def validate_context_ratio(self):
        if not 0 < self.context_ratio < 1:
            raise ValueError(f"context_ratio is {self.context_ratio}: must be between 0 and 1")


class IJEPA(Method):
    """What is evaluated is the mean of the teacher's tokens: its encoder has no class token, as no loss would train one."""

    config_class = IJEPAConfig
    paper = Paper(
        "Self-Supervised Learning from Images with a Joint-Embedding Predictive Architecture", "Mahmoud Assran and others", 2023,
        "2301.08243",
    )  # fmt: skip
    reported = (Reported("linear_top1", 0.729, "ijepa-b16", 600, 2048, "the paper"),)
    frozen = ("backbone.embeddings.position_embeddings", "predictor.positions")

    def __init__(self, config: IJEPAConfig):
        super().__init__(config)
        backbone = self.build_encoder()
        side, _ = token_grid(backbone, drops=True)
        if embedding_parts(backbone).class_token is not None:
            kind = backbone.config.model_type
            raise InputError(f"this method trains patches alone: take an encoder without a class token, such as ijepa-s16, not '{kind}'")
        freeze_pooling(backbone)
        width = backbone.config.hidden_size
        positions = embedding_parts(backbone).positions
        if positions is not None:  # else they are rotary, and stay so
            positions.requires_grad_(False).copy_(sincos_positions(width, side)[:, 1:].view_as(positions))
        init_transformer(backbone)
        self.student = nn.ModuleDict({"backbone": backbone})
        self.teacher = frozen_copy(self.student)
        self.most_targets = most_targets(side)
        self.predictor = Predictor(width, side, backbone.config.num_attention_heads, config)
        self.post_init()

    @property
    def encoder(self):
        return self.teacher["backbone"]

    @staticmethod
    def views(size):
        return {"single": View(size, scale=(0.3, 1.0), horizontal_flip=0.0)}

    def loss(self, views, progress):
        (pixels,) = views
        side, patch = token_grid(self.student["backbone"])
        if pixels.shape[-1] != side * patch:
            raise InputError(f"view.single.size is {pixels.shape[-1]}: must be the image_size, {side * patch}")
        count = max(1, int(side * side * self.config.context_ratio))
        context, places, valid = jepa_masks(progress.draw(jepa_columns(side)), side, count, self.most_targets)
        with torch.no_grad():
            features = tokens(self.teacher["backbone"], pixels)[:, -side * side :].float()
            # Normalised once more, or the targets' scale would drift.
            features = F.layer_norm(features, features.shape[-1:])
            targets = gather_tokens(features, places.flatten(1)).unflatten(1, places.shape[1:])
        seen = tokens(self.student["backbone"], pixels, keep=context)
        predictions = self.predictor(seen[:, -count:], context, places, valid).float()
        return {"loss": block_loss(predictions, targets, valid)}

    def after_step(self, out, progress):
        config = self.config
        momentum = linear_momentum_schedule(config.teacher_momentum, config.teacher_momentum_end, progress.fraction)
        ema_update(self.teacher, self.student, momentum)


def block_loss(predictions: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    """Smooth L1 (with beta 1) of features (n, blocks, most, width), a mean over the images and over the places of each that are valid.

    valid: bool (n, blocks, most). In the authors' code all images of a batch have as many places, so that it is the mean over everything.
    """
    losses = F.smooth_l1_loss(predictions, targets, reduction="none").mean(dim=-1)
    return ((losses * valid).sum(dim=(1, 2)) / valid.sum(dim=(1, 2))).mean()


class Predictor(nn.Module):
    """A narrow transformer that predicts the features at the places of a target block from the features of the context.

    Each block is a sequence of its own. Blocks are padded to one length, and attention leaves the padding out.
    """

    def __init__(self, width: int, side: int, heads: int, config: IJEPAConfig):
        super().__init__()
        dim = config.predictor_dim
        if dim % heads or dim % 4:
            raise InputError(f"predictor_dim is {dim}: must be a multiple of 4 and of the encoder's {heads} heads")
        body = ViTModel(
            ViTConfig(
                hidden_size=dim, num_hidden_layers=config.predictor_depth, num_attention_heads=heads, intermediate_size=4 * dim,
                layer_norm_eps=1e-6,
            ),
            add_pooling_layer=False,
        )  # fmt: skip
        if config.predictor_depth:
            init_transformer(body)
        self.embed, self.predict = _linear(width, dim), _linear(dim, width)
        self.mask_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(dim), std=0.02))
        self.positions = nn.Parameter(sincos_positions(dim, side)[:, 1:], requires_grad=False)
        self.layers, self.norm = body.layers, body.layernorm

    def forward(self, seen: Tensor, context: Tensor, places: Tensor, valid: Tensor) -> Tensor:
        """seen: (n, k, width), of the patches context, int64 (n, k). places, valid: (n, blocks, most). Gives (n, blocks, most, width)."""
        positions, (count, blocks, most) = self.positions[0], places.shape
        hidden = (self.embed(seen) + positions[context])[:, None].expand(-1, blocks, -1, -1)
        queries = self.mask_token + positions[places]
        hidden = torch.cat((hidden, queries.to(hidden.dtype)), dim=2).flatten(0, 1)
        attended = F.pad(valid, (context.shape[1], 0), value=True).flatten(0, 1)[:, None, None]
        mask = hidden.new_zeros(attended.shape).masked_fill(~attended, -math.inf)
        for layer in self.layers:
            hidden = layer(hidden, attention_mask=mask)
        return self.predict(self.norm(hidden[:, -most:])).unflatten(0, (count, blocks))


@torch.no_grad()
def init_transformer(encoder: PreTrainedModel) -> None:
    """Weights from a truncated normal distribution, biases 0; the last layers of block i (1, 2, ...) are divided by sqrt(2 i)."""
    projection = embedding_parts(encoder).projection
    for module in [projection, *(layer for block in blocks(encoder) for layer in block.modules() if isinstance(layer, nn.Linear))]:
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    for index, branches in enumerate(residual_branches(encoder), start=1):
        for branch in branches:
            last = [layer for layer in branch.last.modules() if isinstance(layer, nn.Linear)][-1]
            last.weight.div_(math.sqrt(2 * index))


def _linear(width: int, next_width: int) -> nn.Linear:
    layer = nn.Linear(width, next_width)
    nn.init.trunc_normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer
