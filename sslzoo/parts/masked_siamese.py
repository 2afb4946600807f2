"""Masked siamese networks (MSN, arXiv:2204.07141): all but the regulariser of the mean assignment, which is what MSN and PMSN differ in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from sslzoo.encoders import feature_width, pool_tokens, token_grid, tokens
from sslzoo.optim import ParameterGroup, decay_groups
from sslzoo.views.presets import masked_siamese_views

from .chunks import in_chunks
from .ema import ema_update, frozen_copy, momentum_schedule
from .gather import gather
from .hyperparameters import dim, positive, rows, share
from .masking import split_patches
from .networks import forward_views, mlp
from .precision import full_precision
from .sinkhorn import sinkhorn


@dataclass(repr=False, eq=False)
class MaskedSiameseConfig:
    """The hyper-parameters that MSN and PMSN share, with the values of MSN's paper and released code for ViT-S/16 on ImageNet.

    mask_ratio, focal_mask_ratio: shares of the patches of the anchor, and of each focal view, that are masked.
    sharpening: temperature of the targets as a multiple of `temperature`.
    """

    encoder: PreTrainedConfig | str | dict = "vit-s16"
    joint_views: bool = True
    hidden_dim: int = dim(2048)
    projection_dim: int = dim(256)
    prototypes: int = rows(1024)
    mask_ratio: float | int = share(0.15)
    focal_mask_ratio: float | int = share(0.0)
    temperature: float | int = positive(0.1)
    sharpening: float | int = positive(0.25)


class MaskedBranch(nn.Module):
    """A ViT with a projector on its features: images, and which of their patches are visible, to embeddings (n, projection_dim)."""

    def __init__(self, backbone: PreTrainedModel, hidden_dim: int, projection_dim: int):
        super().__init__()
        token_grid(backbone, drops=True)  # raises `InputError` for encoders that cannot leave out tokens
        self.backbone = backbone
        self.projector = mlp((feature_width(backbone), hidden_dim, hidden_dim, projection_dim), activation=nn.GELU)

    def forward(self, pixels: Tensor, visible: Tensor | None = None) -> Tensor:
        """pixels: (n, 3, height, width). visible: int64 (n, k), indices of patches; None: all."""
        return self.projector(pool_tokens(self.backbone, tokens(self.backbone, pixels, keep=visible)))


class MaskedSiameseMixin:
    """For a `Method`: student, teacher and prototypes, which are trained without weight decay. What is left to it is its loss.

    Its config has the fields of `MaskedSiameseConfig`, `teacher_momentum` and `teacher_momentum_end`.
    """

    varied_views: tuple[str, ...] = ("focal",)
    views = staticmethod(masked_siamese_views)

    def __init__(self, config):
        super().__init__(config)  # pyrefly: ignore[bad-argument-count]
        self.student = MaskedBranch(self.build_encoder(), config.hidden_dim, config.projection_dim)
        self.teacher = frozen_copy(self.student)
        self.prototypes = nn.Parameter(nn.Linear(config.projection_dim, config.prototypes, bias=False).weight.detach())
        self.post_init()

    @property
    def encoder(self):
        return self.teacher.backbone

    def predict_assignments(self, views: Sequence[Tensor], draw: Callable[[int], Tensor]) -> tuple[Tensor, Tensor]:
        """The student's cross entropy with the teacher's assignments to prototypes, and the student's mean assignment, (prototypes,).

        views: the target, for the teacher, then the anchor and the focal views, for the student.
        draw: uniform numbers (n, columns), `Progress.draw`.
        """
        config, (target, *anchors) = self.config, views
        with torch.no_grad():
            targets = self.teacher(target)
        mask_ratios = [config.mask_ratio, *[config.focal_mask_ratio] * (len(anchors) - 1)]
        visible = visible_patches(anchors, token_grid(self.student.backbone)[1], mask_ratios, draw)
        embeddings = torch.stack(forward_views(self, self.student, anchors, visible), dim=1)
        return assignment_cross_entropy(embeddings, targets, self.prototypes, config.temperature, config.sharpening)

    def after_step(self, out, progress):
        config = self.config
        ema_update(self.teacher, self.student, momentum_schedule(config.teacher_momentum, config.teacher_momentum_end, progress.fraction))

    def parameter_groups(self):
        return [*decay_groups(self, exclude=[self.prototypes]), ParameterGroup([self.prototypes], decay=False)]


def visible_patches(views: Sequence[Tensor], patch: int, mask_ratios: Sequence[float], draw: Callable[[int], Tensor]) -> list[Tensor]:
    """For each view the patches that stay visible when `mask_ratios` of them are masked, int64 (n, visible). patch: px."""
    counts = [(view.shape[-1] // patch) ** 2 for view in views]
    noise = draw(sum(counts)).split(counts, dim=1)
    return [split_patches(view_noise, ratio)[0] for view_noise, ratio in zip(noise, mask_ratios, strict=True)]


def assignment_cross_entropy(
    embeddings: Tensor, targets: Tensor, prototypes: Tensor, temperature: float, sharpening: float
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The cross entropy of the embeddings' assignments with those of their images' targets, and the embeddings' mean assignment (k,).

    embeddings: (n, views, d). targets: (n, d), without gradient. prototypes: (k, d). All are normalised here.
    sharpening: targets are raised to the power 1 / sharpening; then three rounds of Sinkhorn use all prototypes equally.
    Both results are means over the embeddings, the second over those of all devices.
    """
    with full_precision(embeddings.device):
        prototypes = F.normalize(prototypes.float(), dim=1)
        with torch.no_grad():
            cosines = F.normalize(targets.float(), dim=1) @ prototypes.T
            teacher_probs = sinkhorn((cosines / (temperature * sharpening)).log_softmax(dim=1), 1.0, iterations=3)

    def predict(teacher_probs: Tensor, embeddings: Tensor) -> Tensor:
        """Each image's cross entropy, and behind it its views' mean assignment: (n, 1 + k)."""
        with full_precision(embeddings.device):
            log_probs = (F.normalize(embeddings.float(), dim=2) @ prototypes.T / temperature).log_softmax(dim=2)
        cross_entropies = -(teacher_probs * log_probs.mean(dim=1)).sum(dim=1, keepdim=True)
        return torch.cat((cross_entropies, log_probs.exp().mean(dim=1)), dim=1)

    means = in_chunks(predict, (teacher_probs, embeddings), embeddings.shape[1] * len(prototypes)).mean(dim=0)
    return means[0], gather(means[None, 1:]).mean(dim=0)
