"""Antialiased crops of a whole batch as two batched matrix products, one for each axis."""

import math

import torch
from torch import Tensor

_TO_GREY_LEVELS = 257  # 65535 / 255


def to_canvas(pixels: Tensor) -> Tensor:
    """The pixels as 0..255 of the type in which images are multiplied.

    Half precision holds uint8 exactly and is the fast one on CUDA. uint16 keeps its precision, as fractions of grey levels in float32.
    """
    if pixels.dtype == torch.uint16:
        return pixels.float().div_(_TO_GREY_LEVELS)
    return pixels.to(torch.float16 if pixels.is_cuda else torch.float32)


def crop(canvas: Tensor, sizes: Tensor, boxes: Tensor, mirrored: Tensor, size: int, interpolation: str, padding: float = 0.0) -> Tensor:
    """Several boxes of each image as (n, boxes, channels, size, size), 0..255, of the canvas' type.

    As Pillow's crop().resize(), but without its rounding. In memory each image lies column by column, as the second product gives it.

    canvas: (n, channels, H, W), 0..255, floating point.
    sizes: int64 (n, 2), heights and widths; only this part of the canvas shows, what a box takes from outside is black.
    boxes: int64 (n, boxes, 4), top, left, height, width in px.
    mirrored: bool (n, boxes, 2), whether the rows and the columns come in reverse order.
    padding: no box reaches further out of its image than this share of its height and width.
    """
    height, width = canvas.shape[2:]
    length = max(height, width)  # of both axes, so that their weights are computed together
    margin = math.ceil(length * padding)
    start, extent = boxes.unsqueeze(-1).split(2, dim=2)  # (n, boxes, axes, 1)
    pixels = torch.arange(0.5 - margin, length + margin, device=canvas.device) - start
    outputs = torch.arange(0.5, size, device=canvas.device)
    outputs = torch.where(mirrored.unsqueeze(-1), size - outputs, outputs)
    weights = axis_weights(pixels, outputs, extent / size, extent, interpolation, canvas.dtype)
    if margin:
        inside = torch.arange(length, device=canvas.device) < sizes[:, None, :, None]
        weights = weights[..., margin : margin + length] * inside.unsqueeze(-2)
    down, across = weights.unbind(2)
    return resample(canvas, down[..., :height], across[..., :width], clamp=interpolation == "bicubic")


def axis_weights(pixels: Tensor, outputs: Tensor, step: Tensor, extent: Tensor, interpolation: str, dtype: torch.dtype) -> Tensor:
    """How much each px along an axis of the canvas counts in each px of the result: (..., outputs, pixels), each row's sum is 1.

    pixels: (..., pixels), places of the canvas' px from where the box starts, in px of the canvas; only those from 0 to `extent` count.
    outputs: (..., outputs), places of the result's px from there, in px of the result.
    step: (..., 1), how many px of the canvas one px of the result stands for. extent: (..., 1), px.
    """
    # Where the result is smaller, the kernel is as wide as its px. Scaled and masked before the large tensor is made.
    pixels = (pixels / step.clamp(min=1)).masked_fill_((pixels < 0) | (pixels > extent), torch.inf)
    outputs = outputs * step.clamp(max=1)
    # The cubic kernel's products would lose too much in half precision.
    exact = outputs.dtype
    distance = pixels.new_empty(*outputs.shape, pixels.shape[-1], dtype=dtype if interpolation == "bilinear" else exact)
    torch.sub(pixels.unsqueeze(-2), outputs.unsqueeze(-1), out=distance).abs_()
    weights = _triangle(distance) if interpolation == "bilinear" else _cubic(distance)
    return weights.div_(weights.sum(dim=-1, keepdim=True, dtype=exact)).to(dtype)


def resample(canvas: Tensor, down: Tensor, across: Tensor, clamp: bool) -> Tensor:
    """(n, boxes, channels, height, width), of the canvas' type, from the canvas (n, channels, H, W).

    down, across: weights (n, boxes, height, H) and (n, boxes, width, W).
    clamp: keep to 0..255 after each axis, as Pillow does, which matters where weights are negative.
    """
    count, boxes, width = across.shape[:3]
    channels = canvas.shape[1]
    # The width first, as Pillow. Each product's result is the next one's operand as it lies in memory.
    columns = torch.bmm(across.flatten(1, 2), canvas.flatten(1, 2).transpose(1, 2))
    columns = columns.clamp_(0, 255) if clamp else columns
    images = torch.bmm(columns.view(count * boxes, width * channels, -1), down.flatten(0, 1).transpose(1, 2))
    images = images.clamp_(0, 255) if clamp else images
    return images.view(count, boxes, width, channels, -1).permute(0, 1, 3, 4, 2)


def _triangle(distance: Tensor) -> Tensor:
    return (1 - distance).clamp_(min=0)


def _cubic(distance: Tensor) -> Tensor:
    """The cubic convolution kernel with the slope -0.5 at a distance of 1."""
    far = distance.clamp(max=2)
    return torch.where(distance < 1, (1.5 * distance - 2.5) * distance.square() + 1, ((2.5 - 0.5 * far) * far - 4) * far + 2)
