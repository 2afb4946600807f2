"""Colour changes of a whole batch, in place: images are float32 (n, 3, height, width), 0..255.

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

_TINY = 1e-6  # grey levels; the hue of a px without colour does not matter but must be finite


def grey(images: Tensor) -> Tensor:
    """(n, 1, height, width): the brightness of each px."""
    red, green, blue = images.split(1, dim=1)
    return (red * 0.299).add_(green, alpha=0.587).add_(blue, alpha=0.114)


def jitter(images: Tensor, amounts: dict[str, Tensor], order: Tensor) -> Tensor:
    """Brightness, contrast, saturation and hue changed, in another order for each image, cut to 0..255 after each; in place.

    amounts: (n,) for each operation of JITTER that is wanted: a factor (1: no change), for "hue" turns (0: no change).
    order: int64 (n, operations): which of the `amounts` comes first, second ... in each image.
    """
    # The hue costs more than the rest together. So it is computed once, and each image's other operations count before or after it.
    names = list(amounts)
    factors = torch.stack(list(amounts.values()), dim=1).gather(1, order)
    chosen = {name: order == names.index(name) for name in names}
    if "hue" not in chosen:
        _blends(images, factors, chosen)
        return images
    places = torch.arange(len(names), device=images.device)
    hue = chosen["hue"].int().argmax(dim=1, keepdim=True)
    first = {name: mask[:, :-1] for name, mask in chosen.items()}
    last = {name: mask[:, 1:] for name, mask in chosen.items()}
    _blends(images, torch.where(places < hue, factors, 1)[:, :-1], first)
    _turn_hue(images, amounts["hue"])
    _blends(images, torch.where(places > hue, factors, 1)[:, 1:], last)
    return images


def _blends(images: Tensor, factors: Tensor, chosen: dict[str, Tensor]) -> None:
    """One column after the other: the image times the factor, plus the rest times black, its mean grey or its grey.

    factors: (n, places). chosen: bool (n, places) for each operation, whether it is the one at that place.
    """
    rest = 1 - factors
    flat, own = (rest * chosen[name] if name in chosen else None for name in ("contrast", "saturation"))
    for place in range(factors.shape[1]):
        greys = grey(images) if flat is not None or own is not None else None
        images.mul_(_wide(factors[:, place]))
        if flat is not None:
            images.add_(_wide(flat[:, place]) * greys.mean(dim=(1, 2, 3), keepdim=True))
        if own is not None:
            images.add_(greys.mul_(_wide(own[:, place])))
        images.clamp_(0, 255)


def _turn_hue(images: Tensor, turns: Tensor) -> None:
    """The hue turned, the largest and the smallest of each px's three values kept."""
    red, green, blue = images.unbind(1)
    highest = torch.maximum(torch.maximum(red, green), blue)
    chroma = highest - torch.minimum(torch.minimum(red, green), blue)
    # In sixths of a turn, from red at 0 over green at 2 to blue at 4.
    hue = (red - green).add_(chroma, alpha=4)
    hue.lerp_((blue - red).add_(chroma, alpha=2), (highest == green).float())
    hue.lerp_(green - blue, (highest == red).float())
    hue.div_(chroma.clamp(min=_TINY)).add_(6 * turns[:, None, None])
    hue.sub_((hue / 6).floor_(), alpha=6)
    # Red lacks the whole chroma within 1 of the hue 3, green of 5 and blue of 1, less of it up to 2 away, around the circle.
    farthest = ((2.0 * torch.arange(3, device=images.device) + 3) % 6).view(3, 1, 1)
    lacking = images.copy_(hue[:, None]).sub_(farthest).abs_().sub_(3).abs_().sub_(1).clamp_(0, 1)
    lacking.mul_(chroma[:, None]).neg_().add_(highest[:, None])


def grayscale(images: Tensor, chosen: Tensor) -> Tensor:
    """The `chosen` images, bool (n,), without colour."""
    return images.lerp_(grey(images), _wide(chosen).float())


def solarize(images: Tensor, chosen: Tensor) -> Tensor:
    """The `chosen` images, bool (n,), with every value from 128 on inverted."""
    return images.lerp_(255 - images, (_wide(chosen) & (images >= 128)).float())


def normalize(images: Tensor, means: Sequence[float] = IMAGENET_MEAN, stds: Sequence[float] = IMAGENET_STD) -> Tensor:
    """0..255 to mean 0 and standard deviation 1 of each channel, in place; means, stds: the channels', 0..1."""
    for channel, mean, std in zip(images.unbind(1), means, stds, strict=True):
        channel.mul_(1 / (255 * std)).sub_(mean / std)
    return images


def _wide(values: Tensor) -> Tensor:
    return values[:, None, None, None]
