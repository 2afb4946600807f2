"""RandAugment of a whole batch on its device: images are float32 (n, 3, height, width), 0..255."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .color import IMAGENET_MEAN, jitter
from .random import hash_words, uniform

_KEY = -2  # where views have their index and the loss has -1, so that the numbers are others
_FILL = tuple(round(255 * mean) for mean in IMAGENET_MEAN)


@dataclass(frozen=True)
class RandAugment:
    """Random operations of random strength (Cubuk and others, arXiv:1909.13719), by default the policy "rand-m9-mstd0.5-inc1" of MAE's
    fine-tuning: stronger with the magnitude in every operation.

    Which operation an image meets, with what strength and sign, is a function of seed, epoch and sample: no batch and no device changes it.
    What the policy computes in whole grey levels after each operation stays fractional here, and geometry is bilinear, not bicubic.

    count: operations an image, one after the other, drawn with replacement from OPERATIONS.
    probability: with which each is applied. magnitude: 0 to 10. deviation: of the magnitudes drawn around it, normal, cut to 0..10.
    """

    count: int = 2
    probability: float = 0.5
    magnitude: float = 9.0
    deviation: float = 0.5

    def __call__(self, images: Tensor, samples: Tensor, seed: int, epoch: int) -> Tensor:
        """The images augmented, in place.

        images: of at least 3 x 3 px.
        samples: int64 (n,), row numbers in the data set. What is drawn must be known on the host, to compute for each image its own
            operations only: samples on another device are copied to it, for which it waits.
        """
        for kinds, levels in self.drawn(samples.cpu(), seed, epoch):
            order, counts = kinds.argsort(stable=True), kinds.bincount(minlength=len(OPERATIONS) + 1).tolist()
            levels, order = levels[order].to(images.device, non_blocking=True), order.to(images.device, non_blocking=True)
            for operation, rows, its_levels in zip(OPERATIONS.values(), order.split(counts), levels.split(counts), strict=False):
                if len(rows):
                    images.index_copy_(0, rows, operation(images.index_select(0, rows), its_levels))
        return images

    def drawn(self, samples: Tensor, seed: int, epoch: int) -> list[tuple[Tensor, Tensor]]:
        """For each of the `count` operations: which of OPERATIONS, int64 (n,), their number for none; its level, (n,), -1..1."""
        rounds, words = [], torch.tensor(hash_words(seed, epoch, _KEY))
        for numbers in uniform(samples, 4 * self.count, words).double().split(4, dim=1):
            kind, applied, spread, sign = numbers.unbind(1)
            kinds = torch.where(applied < self.probability, (kind * len(OPERATIONS)).long(), len(OPERATIONS))
            # Half a step of `uniform` further, since the deviation at 0 is infinite.
            magnitudes = (self.magnitude + self.deviation * torch.special.ndtri(spread + 2**-25)).clamp(0, 10)
            rounds.append((kinds, (magnitudes / 10 * torch.where(sign < 0.5, -1, 1)).float()))
        return rounds


def auto_contrast(images: Tensor) -> Tensor:
    """Each channel stretched to 0..255; one of a single value is left as it is."""
    low, high = images.amin(dim=(2, 3), keepdim=True), images.amax(dim=(2, 3), keepdim=True)
    flat = high == low
    return (images - low.masked_fill(flat, 0)).mul_((255 / (high - low)).masked_fill_(flat, 1)).clamp_(max=255)


def equalize(images: Tensor) -> Tensor:
    """Each channel with its 256 grey levels about equally frequent; one with too few px to tell is left as it is but for rounding."""
    levels = images.round().long().flatten(2)
    counts = levels.new_zeros(*levels.shape[:2], 256).scatter_add_(2, levels, torch.ones_like(levels))
    # The px of a channel's highest level do not count: they map to 255 whatever their number.
    step = (levels.shape[2] - counts.gather(2, levels.amax(dim=2, keepdim=True))) // 255
    table = ((counts.cumsum(dim=2) - counts + step // 2) // step.clamp(min=1)).clamp_(max=255)
    table = torch.where(step > 0, table, torch.arange(256, device=images.device))
    return table.gather(2, levels).view_as(images).to(images.dtype)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Only the highest of each value's 8 bits, int64 (n,), 0 to 8; in place."""
    steps = _per_image(2.0 ** (8 - bits))
    return images.round_().div_(steps).floor_().mul_(steps)


def solarize(images: Tensor, thresholds: Tensor) -> Tensor:
    """Every value from the threshold on, (n,), inverted; in place."""
    return images.lerp_(255 - images, (images >= _per_image(thresholds)).float())


def solarize_add(images: Tensor, amounts: Tensor) -> Tensor:
    """The amount, (n,), at most 127, added to every value below 128; in place."""
    return images.add_((images < 128) * _per_image(amounts))


def sharpen(images: Tensor, factors: Tensor) -> Tensor:
    """More (factor above 1) or less (below) of what a 3 x 3 filter smooths away, but for the outermost px; in place."""
    inner = images[:, :, 1:-1, 1:-1]
    smooth = (9 * F.avg_pool2d(images, 3, stride=1) + 4 * inner) / 13
    inner.copy_(smooth.lerp_(inner, _per_image(factors)))
    return images.clamp_(0, 255)


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """About the centre, counter-clockwise, (n,)."""
    radians = degrees.deg2rad()
    cosine, sine = radians.cos(), radians.sin()
    center_x, center_y = images.shape[3] / 2, images.shape[2] / 2
    return _transform(
        images,
        (cosine, -sine, center_x - cosine * center_x + sine * center_y),
        (sine, cosine, center_y - sine * center_x - cosine * center_y),
    )


def shear_x(images: Tensor, factors: Tensor) -> Tensor:
    """Each row taken from the right by so many times its height, (n,): the top left corner stays."""
    one, zero = torch.ones_like(factors), torch.zeros_like(factors)
    return _transform(images, (one, factors, zero), (zero, one, zero))


def shear_y(images: Tensor, factors: Tensor) -> Tensor:
    """Each column taken from below by so many times its distance from the left, (n,)."""
    one, zero = torch.ones_like(factors), torch.zeros_like(factors)
    return _transform(images, (one, zero, zero), (factors, one, zero))


def translate_x(images: Tensor, shares: Tensor) -> Tensor:
    """Shifted to the left by a share of the width, (n,)."""
    one, zero = torch.ones_like(shares), torch.zeros_like(shares)
    return _transform(images, (one, zero, shares * images.shape[3]), (zero, one, zero))


def translate_y(images: Tensor, shares: Tensor) -> Tensor:
    """Shifted up by a share of the height, (n,)."""
    one, zero = torch.ones_like(shares), torch.zeros_like(shares)
    return _transform(images, (one, zero, zero), (zero, one, shares * images.shape[2]))


def _transform(images: Tensor, row_x: tuple[Tensor, ...], row_y: tuple[Tensor, ...]) -> Tensor:
    """Each px from where the affine map leads, bilinearly; ImageNet's mean colour where that is outside of the image.

    row_x, row_y: (n,) each, what x, y and 1 count in the place's x and y, in px from the top left corner.
    """
    height, width = images.shape[2:]
    # Not as a matrix product, which may be one of low precision.
    across, down = torch.arange(width, device=images.device) + 0.5, (torch.arange(height, device=images.device) + 0.5)[:, None]
    x, y = (a[:, None, None] * across + b[:, None, None] * down + c[:, None, None] for a, b, c in (row_x, row_y))
    outside = (x < 0) | (x >= width) | (y < 0) | (y >= height)
    grid = torch.stack([x * (2 / width) - 1, y * (2 / height) - 1], dim=3)
    moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    for channel, value in zip(moved.unbind(1), _FILL, strict=True):
        channel.masked_fill_(outside, value)
    return moved


def _enhance(images: Tensor, levels: Tensor, name: str) -> Tensor:
    return jitter(images, 1 + 0.9 * levels[:, None], torch.zeros(len(images), 1, dtype=torch.long, device=images.device), [name])


def _per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]


# What each makes of images and levels, (n,), -1..1: a tenth of the magnitude, with a random sign that some operations ignore.
OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "auto_contrast": lambda images, levels: auto_contrast(images),
    "equalize": lambda images, levels: equalize(images),
    "invert": lambda images, levels: 255 - images,
    "rotate": lambda images, levels: rotate(images, 30 * levels),
    "posterize": lambda images, levels: posterize(images, 4 - (4 * levels.abs()).long()),
    "solarize": lambda images, levels: solarize(images, 256 - (256 * levels.abs()).floor()),
    "solarize_add": lambda images, levels: solarize_add(images, (110 * levels.abs()).floor()),
    "color": lambda images, levels: _enhance(images, levels, "saturation"),
    "contrast": lambda images, levels: _enhance(images, levels, "contrast"),
    "brightness": lambda images, levels: _enhance(images, levels, "brightness"),
    "sharpness": lambda images, levels: sharpen(images, 1 + 0.9 * levels),
    "shear_x": lambda images, levels: shear_x(images, 0.3 * levels),
    "shear_y": lambda images, levels: shear_y(images, 0.3 * levels),
    "translate_x": lambda images, levels: translate_x(images, 0.45 * levels),
    "translate_y": lambda images, levels: translate_y(images, 0.45 * levels),
}  # fmt: skip
