"""Signs of collapse: encoders that tell every image the same, or use few of their dimensions."""

import torch
import torch.nn.functional as F
from torch import Tensor

from sslzoo.parts.precision import in_float64

# Lowered until no digits recipe set them off in its first four epochs; the lowest there are SimMIM's class tokens, 0.01 and 1.16. So they
# tell a total collapse alone, and nothing is known of larger recipes.
SPREAD_LEAST = 0.003
RANK_LEAST = 1.02


def collapse_signs(features: Tensor) -> dict[str, Tensor]:
    """Two scalars from features (n, d), NaN where these are not finite; nothing is read back from the device.

    "feature_std": mean over dimensions of the standard deviation of the normalised features, times sqrt(d): 0 when all images get one
        feature, about 1 when they are spread over the whole sphere (SimSiam, arXiv:2011.10566, section 4.1).
    "feature_rank": effective rank, at most min(n, d): the exponential of the entropy of the normalised singular values (RankMe,
        arXiv:2210.02885, equation 1).
    """
    features = features.float()
    finite = features.isfinite().all()
    features = torch.where(finite, features, 0.0)  # the decomposition raises an error for others
    spread = F.normalize(features, dim=1).std(dim=0).mean() * features.shape[1] ** 0.5
    smaller = features if features.shape[0] <= features.shape[1] else features.T
    # Of the smaller Gram matrix: its eigenvalues are the squares of the singular values, and much cheaper.
    singular = torch.linalg.eigvalsh(in_float64(smaller @ smaller.T)).clamp(min=0).sqrt().to(features)
    shares = singular / singular.sum().clamp(min=1e-12)
    rank = torch.special.entr(shares).sum().exp().float()
    return {name: torch.where(finite, value, torch.nan) for name, value in (("feature_std", spread), ("feature_rank", rank))}


def likely_collapse(values: dict[str, float]) -> str | None:
    """What the signs say, in words, or None while they are well."""
    if values["feature_std"] < SPREAD_LEAST:
        return f"all images get nearly the same features (feature_std {values['feature_std']:.4f})"
    if values["feature_rank"] < RANK_LEAST:
        return f"the features use next to one dimension (feature_rank {values['feature_rank']:.2f})"
    return None
