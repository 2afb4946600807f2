"""Random erasing of a whole batch on its device."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .boxes import TRIES, draw_boxes
from .random import hash_words, uniform

_KEY, _NOISE = -3, -4  # as in rand_augment.py
_BLOCK = 2**21  # values for which noise is drawn at once


@dataclass(frozen=True)
class RandomErasing:
    """One box of noise in some of the images (Zhong and others, arXiv:1708.04896); the values are those of MAE's fine-tuning.

    probability: with which an image gets it.
    area: smallest and largest share of the image. ratio: smallest and largest width / height, drawn log-uniformly.
    """

    probability: float = 0.25
    area: tuple[float, float] = (0.02, 1 / 3)
    ratio: tuple[float, float] = (0.3, 1 / 0.3)

    def __call__(self, images: Tensor, samples: Tensor, seed: int, epoch: int) -> Tensor:
        """The images, float32 (n, 3, height, width), normalised, with standard normal noise in each value of the box; in place.

        A pure function of seed, epoch and sample (int64 (n,); copied to the host if they are not there, to make noise only where needed).
        """
        samples = samples.cpu()
        words, noise_words = (torch.tensor(hash_words(seed, epoch, key)) for key in (_KEY, _NOISE))
        chosen, areas, ratios, corners = uniform(samples, 3 + 2 * TRIES, words).split([1, TRIES, TRIES, 2], dim=1)
        erased = (chosen[:, 0] < self.probability).nonzero()[:, 0]
        size = torch.tensor(images.shape[2:]).expand(len(erased), 2)
        areas = self.area[0] + areas * (self.area[1] - self.area[0])
        low, high = map(math.log, self.ratio)
        log_ratios = low + ratios * (high - low)
        boxes = draw_boxes(size, areas[erased], log_ratios[erased], corners[erased], torch.tensor(self.ratio))
        boxes, samples, erased = (part.to(images.device, non_blocking=True) for part in (boxes, samples[erased], erased))
        rows, columns = (
            (places >= boxes[:, axis, None]) & (places < boxes[:, axis, None] + boxes[:, axis + 2, None])
            for axis, places in enumerate(torch.arange(length, device=images.device) for length in images.shape[2:])
        )
        inside = (rows[:, :, None] & columns[:, None])[:, None]
        block = max(1, _BLOCK // images[0].numel())
        for some in (slice(start, start + block) for start in range(0, len(erased), block)):
            noise = _normal(uniform(samples[some], images[0].numel(), noise_words)).view(-1, *images.shape[1:])
            images.index_copy_(0, erased[some], torch.where(inside[some], noise, images.index_select(0, erased[some])))
        return images


def _normal(numbers: Tensor) -> Tensor:
    """Standard normal numbers from multiples of 2**-24 in [0, 1), in place; finite for 0 too."""
    return numbers.mul_(2).sub_(1).clamp_(min=2**-24 - 1).erfinv_().mul_(math.sqrt(2))
