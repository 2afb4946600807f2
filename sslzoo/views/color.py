"""Colour changes: images are float32 (..., 3, height, width), 0..255, and may lie in memory in any order of their dimensions.

Normalisation takes any number of channels.

Nothing branches on what was drawn: what does not change an image is computed with amounts that change nothing. On a CPU memory that is
written for the first time and `torch.where` on a mixed mask cost ten times as much as the arithmetic, hence the work in place and `lerp_`,
which is exact at 0 and 1.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
JITTER = ("brightness", "contrast", "saturation", "hue")

_RED, _GREEN, _BLUE = 0.299, 0.587, 0.114  # how much each counts in the luma
_TINY = 1e-6  # grey levels; the hue of a px without colour does not matter but must be finite


def luma(red: Tensor, green: Tensor, blue: Tensor) -> Tensor:
    """The brightness of each px, of the channels' shape."""
    return (red * _RED).add_(green, alpha=_GREEN).add_(blue, alpha=_BLUE)


def jitter(images: Tensor, amounts: Tensor, order: Tensor, names: Sequence[str] = JITTER) -> Tensor:
    """Brightness, contrast, saturation and hue changed, in another order for each image, cut to 0..255 after each; works in place.

    images: (..., 3, height, width).
    amounts: (..., operations), for each of the `names`: a factor (1: no change), for "hue" turns (0: no change).
    order: int64 (..., operations): which of the `names` comes first, second ... in each image.
    names: those of JITTER that are wanted, in its order.
    """
    factors = amounts.gather(-1, order)
    if "hue" not in names:
        return _blend(images, *_shares(factors, order, names))
    # The hue costs more than the rest together. So it is computed once, and each image's other operations count before or after it.
    places = len(names)
    is_hue = order == places - 1
    at_or_after = is_hue.cumsum(-1)
    before, after = factors.masked_fill(at_or_after > 0, 1), factors.masked_fill(at_or_after <= is_hue, 1)
    columns = _shares(torch.cat([before, after], dim=-1), torch.cat([order, order], dim=-1), names)
    _blend(images, *(column[: places - 1] for column in columns))
    return _blend(turn_hue(images, amounts[..., -1]), *(column[places + 1 :] for column in columns))


def _shares(factors: Tensor, order: Tensor, names: Sequence[str]) -> list[tuple[Tensor, ...]]:
    """For each place in the order, how much of each image counts, of its mean grey and of its own grey, (..., 1, 1, 1) each.

    The greys are those whose red counts as it is.
    """
    rest = torch.rsub(factors, _RED, alpha=_RED)
    shares = [rest * (order == names.index(name)) if name in names else () for name in ("contrast", "saturation")]
    return [_per_image(column, 1).unbind(-1) if len(column) else () for column in (factors, *shares)]


def _blend(images: Tensor, factors: Sequence[Tensor], contrasts: Sequence[Tensor], saturations: Sequence[Tensor]) -> Tensor:
    """One place in the order after the other: the image times the factor, plus the rest times black, its mean grey or its grey."""
    red, green, blue = images.split(1, dim=-3)
    for place, factor in enumerate(factors):
        if not contrasts and not saturations:
            images.mul_(factor).clamp_(0, 255)
            continue
        grey = torch.add(red, green, alpha=_GREEN / _RED).add_(blue, alpha=_BLUE / _RED)  # the rest of the luma is in the shares
        target = contrasts[place] * grey.mean(dim=(-3, -2, -1), keepdim=True) if contrasts else None
        if saturations:
            target = torch.addcmul(target, grey, saturations[place]) if contrasts else grey.mul_(saturations[place])
        images.mul_(factor).add_(target).clamp_(0, 255)
    return images


def turn_hue(images: Tensor, turns: Tensor) -> Tensor:
    """The hue turned by `turns`, (...), the largest and the smallest of each px's three values kept."""
    red, green, blue = images.split(1, dim=-3)
    highest = images.amax(dim=-3, keepdim=True)
    chroma = highest - images.amin(dim=-3, keepdim=True)
    # In sixths of a turn, from red at 0 over green at 2 to blue at 4.
    hue = (red - green).add_(chroma, alpha=4)
    hue.lerp_((blue - red).add_(chroma, alpha=2), (highest == green).float())
    hue.lerp_(green - blue, (highest == red).float())
    # Between 1 and 7, less 1.
    hue.div_(chroma.clamp(min=_TINY)).add_(_per_image(6 * turns - 1))
    hue.sub_((hue / 6).floor_(), alpha=6)
    # Red lacks the whole chroma within 1 of the hue 3, green of 5 and blue of 7, less of it up to 2 away, around the circle.
    farthest = torch.arange(2, 8, 2, device=images.device).view(3, 1, 1)
    lacking = (hue - farthest).abs_().sub_(3).abs_().clamp_(1, 2)
    return torch.addcmul(highest.add_(chroma), lacking, chroma, value=-1)


def grayscale(images: Tensor, chosen: Tensor) -> Tensor:
    """The `chosen` images, bool (...), without colour; in place."""
    return images.lerp_(luma(*images.split(1, dim=-3)), _per_image(chosen).float())


def solarize(images: Tensor, chosen: Tensor) -> Tensor:
    """The `chosen` images, bool (...), with every value from 128 on inverted; in place."""
    return images.lerp_(255 - images, (_per_image(chosen) & (images >= 128)).float())


def normalization(means: Sequence[float], stds: Sequence[float]) -> Tensor:
    """By what to multiply each channel of 0..255, and what to add then, (2, channels, 1, 1): to mean 0 and standard deviation 1.

    means, stds: of the channels, 0..1.
    """
    rows = [1 / (255 * std) for std in stds], [-mean / std for mean, std in zip(means, stds, strict=True)]
    return torch.tensor(rows).view(2, -1, 1, 1)


def normalize(images: Tensor, means: Sequence[float] = IMAGENET_MEAN, stds: Sequence[float] = IMAGENET_STD) -> Tensor:
    """0..255 to mean 0 and standard deviation 1 of each channel, in place; means, stds: the channels', 0..1."""
    for channel, mean, std in zip(images.unbind(-3), means, stds, strict=True):
        channel.mul_(1 / (255 * std)).sub_(mean / std)
    return images


def _per_image(values: Tensor, columns: int = 0) -> Tensor:
    """(...) as (..., 1, 1, 1), which broadcasts with images; the last dimensions may be columns that stay behind these."""
    shape = values.shape
    return values.reshape(*shape[: len(shape) - columns], 1, 1, 1, *shape[len(shape) - columns :])
