"""A view rendered image by image, on a CPU, where branching is free: each image meets its own operations, on its own box alone."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .blur import blur_one
from .color import JITTER, luma, turn_hue
from .crop import to_canvas
from .draws import Draws
from .view import View

_HUE = JITTER.index("hue")


def render_by_image(views: Sequence[View], pixels: Tensor, sizes: Tensor, drawn: Draws, normalization: Tensor, out: Tensor) -> None:
    """Writes the views, float32 (views, n, channels, size, size), normalised, to `out`.

    views: of one size. pixels: uint8 or uint16 (n, channels, H, W). sizes: int64 (n, 2). drawn: for these views.
    """
    scale, shift = normalization.unbind()
    images = torch.empty(len(pixels) * len(views), *out.shape[2:])
    view_of = list(views) * len(pixels)
    boxes, mirrored, amounts, order, grayscale, sigmas, solarized = (part.flatten(0, 1).tolist() for part in drawn)
    # Each image's operations in their order: (number drawn, column of JITTER, amount).
    plans = [sorted(zip(numbers, range(len(JITTER)), its, strict=True)) for numbers, its in zip(order, amounts, strict=True)]
    heights_and_widths, turns = sizes.tolist(), drawn.amounts.flatten(0, 1)[:, _HUE]
    for number, image in enumerate(images):
        row = number // len(views)
        image.copy_(crop_one(pixels[row], heights_and_widths[row], boxes[number], mirrored[number], view_of[number]))
        _blend(image, plans[number], after_hue=False)
    turned = [number for number, its in enumerate(amounts) if its[_HUE] != 0]
    if len(turned) == len(images):
        images = turn_hue(images, turns)
    elif turned:
        images[turned] = turn_hue(images[turned], turns[turned])
    for number, (image, view) in enumerate(zip(images, view_of, strict=True)):
        _blend(image, plans[number], after_hue=True)
        if grayscale[number][0]:
            image.copy_(luma(*image.split(1)))
        if solarized[number][0] and view.solarize_first:
            _solarize(image)
        if sigmas[number][0] > 0:
            image = blur_one(image, sigmas[number][0])
        if solarized[number][0] and not view.solarize_first:
            _solarize(image)
        torch.mul(image, scale, out=out[number % len(views), number // len(views)]).add_(shift)


def crop_one(canvas: Tensor, size: list[int], box: list[int], flips: list[bool], view: View) -> Tensor:
    """The box of one image as (channels, size, size), 0..255, flipped: of uint8 as Pillow's crop().resize() gives it, else not rounded.

    canvas: uint8 or uint16 (channels, H, W). size: height and width of the image; what the box takes from outside is black.
    """
    top, left, height, width = box
    above, before = max(0, -top), max(0, -left)
    piece = canvas[:, top + above : min(top + height, size[0]), left + before : min(left + width, size[1])]
    if piece.shape[1:] != (height, width):
        below, behind = height - above - piece.shape[1], width - before - piece.shape[2]
        piece = F.pad(piece, (before, behind, above, below))
    if piece.dtype != torch.uint8:
        piece = to_canvas(piece)
    piece = F.interpolate(piece[None], (view.size, view.size), mode=view.interpolation, antialias=True)[0]
    if piece.is_floating_point():
        piece.clamp_(0, 255)  # what bicubic weights overshoot
    dims = [1 + axis for axis in (0, 1) if flips[axis]]
    return piece.flip(dims) if dims else piece


def _blend(image: Tensor, plan: list[tuple[float, int, float]], after_hue: bool) -> None:
    """The image's brightness, contrast and saturation changed, those before or after the hue, in the order of its plan; in place."""
    hue = next(place for place, (_, column, _) in enumerate(plan) if column == _HUE)
    for _, column, factor in plan[hue + 1 :] if after_hue else plan[:hue]:
        if factor == 1:
            continue
        if JITTER[column] == "brightness":
            image.mul_(factor)
        elif JITTER[column] == "contrast":
            means = image.mean(dim=(1, 2))
            image.mul_(factor).add_((1 - factor) * luma(*means).item())
        else:
            image.lerp_(luma(*image.split(1)), 1 - factor)
        if factor > 1:
            image.clamp_(0, 255)


def _solarize(image: Tensor) -> None:
    image.lerp_(255 - image, (image >= 128).float())
