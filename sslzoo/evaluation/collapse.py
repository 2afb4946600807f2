"""Detecting collapse: encoders that give all images the same features, or features of very low rank."""

import torch
import torch.nn.functional as F
from torch import Tensor

from sslzoo.parts.precision import in_float64

# Below the lowest values of any digits recipe in its first four epochs, 0.01 and 1.16, of SimMIM's class tokens.
MIN_STD = 0.003
MIN_RANK = 1.02
# Of 27 runs, 26 kept at least 0.24 of the deviation that they began with, some only for a while; I-JEPA on digits, which collapsed, 0.13.
MIN_SHARE_OF_START = 0.2


def collapse_metrics(features: Tensor) -> dict[str, Tensor]:
    """Two scalars from features (n, d), without a device sync; NaN if a feature is not finite.

    "feature_std": the standard deviation of the L2-normalised features, averaged over dimensions, times sqrt(d): 0 if all features are
        equal, about 1 if they are uniform on the sphere (SimSiam, arXiv:2011.10566, section 4.1).
    "feature_rank": effective rank, at most min(n, d): the exponential of the entropy of the normalised singular values (RankMe,
        arXiv:2210.02885, equation 1).
    """
    features = features.float()
    finite = features.isfinite().all()
    features = torch.where(finite, features, 0.0)  # eigvalsh raises an error for NaN
    std = F.normalize(features, dim=1).std(dim=0).mean() * features.shape[1] ** 0.5
    smaller = features if features.shape[0] <= features.shape[1] else features.T
    # The eigenvalues of the smaller Gram matrix are the squared singular values, and much cheaper.
    singular_values = torch.linalg.eigvalsh(in_float64(smaller @ smaller.T)).clamp(min=0).sqrt().to(features)
    shares = singular_values / singular_values.sum().clamp(min=1e-12)
    rank = torch.special.entr(shares).sum().exp().float()
    return {name: torch.where(finite, value, torch.nan) for name, value in (("feature_std", std), ("feature_rank", rank))}


def collapse_warning(values: dict[str, float], at_start: dict[str, float]) -> str | None:
    """Why the encoder has likely collapsed, from `collapse_metrics` of now and of the first measurement in the run; None if it has not."""
    std, first = values["feature_std"], at_start["feature_std"]
    if std < MIN_STD:
        return f"all images get nearly the same features (feature_std {std:.4f})"
    if std < MIN_SHARE_OF_START * first:
        return f"features of different images become alike (feature_std {std:.4f}, {first:.4f} at the start)"
    if values["feature_rank"] < MIN_RANK:
        return f"the features span little more than one dimension (feature_rank {values['feature_rank']:.2f})"
    return None
