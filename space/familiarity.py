"""Tells an image that a model knows nothing like: the neighbours of such an image mean little."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

_SHARE = 0.01  # of the training images that count as unlike the others


class Familiarity(NamedTuple):
    """What is usual among training images, each left out of its own neighbours; all but 1 % of them reach these.

    nearest: cosine of the nearest neighbour. lead: how far the nearest is ahead of the median image.
    """

    nearest: float
    lead: float

    @classmethod
    def of(cls, bank: Tensor) -> "Familiarity":
        """bank: features (n, width)."""
        normalised = F.normalize(bank.float(), dim=1)
        cosines = normalised @ normalised.T
        others = cosines[~torch.eye(len(bank), dtype=torch.bool)].view(len(bank), -1)
        nearest = others.amax(dim=1)
        lead = nearest - others.median(dim=1).values
        return cls(*(float(values.quantile(_SHARE)) for values in (nearest, lead)))

    def warning(self, cosines: Tensor) -> str:
        """A word on an image whose cosines to all of the bank are `cosines` (n,), "" for one that is like the training images."""
        nearest = float(cosines.max())
        lead = nearest - float(cosines.median())
        if nearest < self.nearest:
            usual = f"99 of 100 training images have one above {self.nearest:.3f}"
            found = f"the nearest training image has a cosine of {nearest:.3f}, {usual}"
            return f"Far from what this model saw: {found}. Its neighbours mean little."
        if lead < self.lead:
            found = f"the nearest is only {lead:.3f} ahead of the median"
            return f"Unlike what this model saw: all training images are about equally near, {found}. Its neighbours mean little."
        return ""
