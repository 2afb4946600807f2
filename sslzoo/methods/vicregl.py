"""VICRegL: VICReg between whole images and, at the same time, between matching places of their feature maps."""

from functools import partial
from itertools import combinations, permutations

import torch
from huggingface_hub.dataclasses import strict
from torch import nn

from sslzoo.encoders import feature_width, features_and_map
from sslzoo.method import Method, MethodConfig
from sslzoo.paper import Paper, Reported
from sslzoo.parts.hyperparameters import count, dim, share, weight
from sslzoo.parts.masking import gather_tokens
from sslzoo.parts.networks import forward_views, mlp
from sslzoo.parts.variance_covariance import vicreg_terms
from sslzoo.views import View
from sslzoo.views.presets import BYOL_COLOR


@strict
class VICRegLConfig(MethodConfig):
    """The paper's ResNet-50 values (arXiv:2210.01571).

    local_dim: width of all layers of the local projector. alpha: weight of the global loss; the local one has the rest.
    forward_matches, backward_matches: how many places of a feature map count, those with the nearest matches, from one view to another
    and back.
    """

    model_type = "sslzoo-vicregl"

    hidden_dim: int = dim(8192)
    projection_dim: int = dim(8192)
    local_dim: int = dim(512)
    forward_matches: int = count(20)
    backward_matches: int = count(4)
    alpha: float | int = share(0.75)
    invariance_weight: float | int = weight(25.0)
    variance_weight: float | int = weight(25.0)
    covariance_weight: float | int = weight(1.0)


class VICRegL(Method):
    config_class = VICRegLConfig
    paper = Paper("VICRegL: Self-Supervised Learning of Local Visual Features", "Adrien Bardes and others", 2022, "2210.01571")
    reported = (Reported("linear_top1", 0.712, "res50", 300, None, "facebookresearch/VICRegL"),)
    varied_views = ("global",)

    def __init__(self, config: VICRegLConfig):
        super().__init__(config)
        self.backbone = self.build_encoder()
        width = feature_width(self.backbone)
        self.projector = mlp((width, config.hidden_dim, config.hidden_dim, config.projection_dim))
        self.local_projector = mlp((width, *[config.local_dim] * 3), norm=nn.LayerNorm)
        self.post_init()

    @staticmethod
    def views(size):
        return {"global": View(size, count=2, scale=(0.2, 1.0), blur=0.5, **{**BYOL_COLOR, "jitter": 1.0})}

    def loss(self, views, progress):
        pooled, maps = zip(*forward_views(self, partial(features_and_map, self.backbone), views), strict=True)
        embeddings = forward_views(self, self.projector, list(pooled))
        local = [self.local_projector(feature_map.flatten(2).mT).float() for feature_map in maps]
        positions = [centers(crop, *feature_map.shape[2:]) for crop, feature_map in zip(progress.crops(), maps, strict=False)]
        global_loss = _mean(self._vicreg(embeddings[a], embeddings[b]) for a, b in combinations(range(len(views)), 2))
        local_loss = _mean(
            self._matched(local[a], local[b], local[a], local[b]) + self._matched(local[a], local[b], positions[a], positions[b])
            for a, b in permutations(range(len(views)), 2)
        )
        total = self.config.alpha * global_loss + (1 - self.config.alpha) * local_loss
        return {"loss": total, "global_loss": global_loss.detach(), "local_loss": local_loss.detach()}

    def _matched(self, first, second, first_points, second_points):
        """The loss between local embeddings (n, places, d) and those whose points, (n, places, any), are nearest.

        The paper matches the first view to the second with `forward_matches` and back with `backward_matches`. Every pair comes in both
        orders here, so matching the first to the second alone, once with each number, gives the same sum.
        """
        nearest = torch.cdist(first_points.detach(), second_points.detach(), compute_mode="donot_use_mm_for_euclid_dist").min(dim=2)
        order = nearest.values.argsort(dim=1, stable=True)
        return _mean(
            self._vicreg(gather_tokens(first, order[:, :count]), gather_tokens(second, nearest.indices.gather(1, order[:, :count])))
            for count in (self.config.forward_matches, self.config.backward_matches)
        )

    def _vicreg(self, first, second):
        invariance, variance, covariance = vicreg_terms(first, second)
        config = self.config
        return config.invariance_weight * invariance + config.variance_weight * variance + config.covariance_weight * covariance


def centers(crops: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Where in its image each place of a crop's (height, width) feature map lies, (n, height * width, 2): row and column in px.

    The centres of equal cells of the crop. (The reference table's code stretches the grid; its last row and column are outside the crop.)

    crops: (n, 6), as from `Renderer.crops`.
    """
    axes = []
    for start, length, mirrored, cells in ((0, 2, 4, height), (1, 3, 5, width)):
        shares = (torch.arange(cells, device=crops.device) + 0.5) / cells
        shares = torch.where(crops[:, mirrored, None] > 0, 1 - shares, shares)
        axes.append(crops[:, start, None] + crops[:, length, None] * shares)
    rows, columns = axes
    return torch.stack((rows[:, :, None].expand(-1, -1, width), columns[:, None].expand(-1, height, -1)), dim=-1).flatten(1, 2)


def _mean(losses) -> torch.Tensor:
    return torch.stack(list(losses)).mean()
