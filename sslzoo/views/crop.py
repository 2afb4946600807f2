"""Antialiased crops of a whole batch as two batched matrix products, one for each axis."""

import math

import torch
from torch import Tensor


def to_canvas(pixels: Tensor) -> Tensor:
    """The uint8 pixels as the type in which images are multiplied: half precision holds them exactly and is the fast one on CUDA."""
    return pixels.to(torch.float16 if pixels.is_cuda else torch.float32)


def crop(canvas: Tensor, sizes: Tensor, boxes: Tensor, mirrored: Tensor, size: int, interpolation: str, padding: float = 0.0) -> Tensor:
    """Each image's box as (n, 3, size, size), 0..255, of the canvas' type: what Pillow's crop().resize() gives, without its rounding.

    canvas: (n, 3, H, W), 0..255, floating point.
    sizes: int64 (n, 2), heights and widths; only this part of the canvas shows, what a box takes from outside is black.
    boxes: int64 (n, 4), top, left, height, width in px.
    mirrored: bool (n, 2), whether the rows and the columns come in reverse order.
    padding: no box reaches further out of its image than this share of its height and width.
    """
    outputs = torch.arange(size, device=canvas.device)
    axes = []
    for axis in (0, 1):
        start, extent = boxes[:, axis, None], boxes[:, axis + 2, None]
        step = extent / size
        places = torch.where(mirrored[:, axis, None], size - 1 - outputs, outputs)
        centers = start + (places + 0.5) * step
        length = canvas.shape[2 + axis]
        margin = math.ceil(length * padding)
        weights = axis_weights(centers, step, start, start + extent, length, interpolation, margin)
        if margin:
            weights = weights * (torch.arange(length, device=canvas.device) < sizes[:, axis, None])[:, None]
        axes.append(weights)
    return resample(canvas, *axes, clamp=interpolation == "bicubic")


def axis_weights(centers: Tensor, step: Tensor, low: Tensor, high: Tensor, length: int, interpolation: str, margin: int = 0) -> Tensor:
    """How much each px along one axis of the canvas counts in each px of the result: float32 (n, outputs, length), each row's sum is 1.

    centers: (n, outputs), where the result's px lie on the canvas, in px.
    step: (n, 1), how many px of the canvas one px of the result stands for.
    low, high: (n, 1), only canvas px between them are used.
    margin: px before and after the canvas that take part in the sum, and so darken the result, though nothing is there.
    """
    pixels = torch.arange(-margin, length + margin, device=centers.device) + 0.5
    weights = (pixels - centers[:, :, None]).mul_((1 / step.clamp(min=1))[:, :, None]).abs_()
    weights = _triangle(weights) if interpolation == "bilinear" else _cubic(weights)
    weights.mul_(((pixels > low) & (pixels < high)).float()[:, None])
    weights.div_(weights.sum(dim=2, keepdim=True))
    return weights[:, :, margin : margin + length] if margin else weights


def resample(canvas: Tensor, down: Tensor, across: Tensor, clamp: bool) -> Tensor:
    """(n, 3, height, width), of the canvas' type, from the canvas (n, 3, H, W) and the weights (n, height, H) and (n, width, W).

    clamp: keep to 0..255 after each axis, as Pillow does, which matters where weights are negative.
    """
    down, across = down.to(canvas.dtype), across.to(canvas.dtype)
    rows = (canvas.flatten(1, 2) @ across.transpose(1, 2)).unflatten(1, canvas.shape[1:3])
    if not clamp:
        return down[:, None] @ rows
    return (down[:, None] @ rows.clamp_(0, 255)).clamp_(0, 255)


def _triangle(distance: Tensor) -> Tensor:
    return distance.neg_().add_(1).clamp_(min=0)


def _cubic(distance: Tensor) -> Tensor:
    """The cubic convolution kernel with the slope -0.5 at a distance of 1."""
    far = distance.clamp(max=2)
    return torch.where(distance < 1, (1.5 * distance - 2.5) * distance.square() + 1, ((2.5 - 0.5 * far) * far - 4) * far + 2)
