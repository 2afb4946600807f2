"""Random directions, along which the distribution of embeddings is compared with a Gaussian (LeJEPA, arXiv:2511.08544)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def random_directions(uniform: Tensor) -> Tensor:
    """Unit vectors, uniformly distributed over the sphere, (n, d), from uniform numbers in [0, 1) of that shape."""
    return F.normalize(torch.erfinv((2 * uniform - 1).clamp(-1 + 1e-6, 1 - 1e-6)), dim=1)
