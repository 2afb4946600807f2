"""How an image is seen in evaluation: resized, then its centre."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sslzoo.errors import unknown

from .color import IMAGENET_MEAN, IMAGENET_STD, normalize
from .crop import axis_weights, resample, to_canvas
from .view import INTERPOLATIONS

_BLOCK = 3 * 2**23  # values of canvases that are in memory as floating-point numbers at once


def center_crop(
    pixels: Tensor, sizes: Tensor, resize: int, size: int, interpolation: str = "bilinear", mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD, squash: bool = False,
) -> Tensor:  # fmt: skip
    """The centre of each image as float32 (n, channels, size, size), normalised with the channels' mean and standard deviation (0..1).

    What an image processor of transformers gives for the same sizes, without rounding the resized pixels.

    pixels: uint8 or uint16 (n, channels, H, W), each image in the top-left corner. sizes: int64 (n, 2), heights and widths in px.
    resize: px of the image's short side after resizing. size: px of the centre; black where the resized image does not reach.
    interpolation: "bilinear" or "bicubic". Raises `InputError` for another.
    squash: both sides become `resize` px, whatever the image's shape.
    """
    if interpolation not in INTERPOLATIONS:
        raise unknown("interpolation", interpolation, INTERPOLATIONS)
    result = torch.empty(*pixels.shape[:2], size, size, device=pixels.device)
    block = max(1, _BLOCK // pixels[0].numel())
    for start in range(0, len(pixels), block):
        some = slice(start, start + block)
        result[some] = _cropped(pixels[some], sizes[some], resize, size, interpolation, squash)
        normalize(result[some], mean, std)
    return result


def _cropped(pixels: Tensor, sizes: Tensor, resize: int, size: int, interpolation: str, squash: bool) -> Tensor:
    """The centres, (n, channels, size, size), 0..255."""
    resized = torch.full_like(sizes, resize) if squash else sizes * resize // sizes.amin(dim=1, keepdim=True)
    canvas = to_canvas(pixels)
    axes = []
    for axis in (0, 1):
        before, after = sizes[:, axis, None], resized[:, axis, None]
        outputs = torch.arange(size, device=pixels.device) + (after - size) // 2
        # Where the resized image does not reach any finite weights do, they are multiplied by zero.
        nearest = torch.minimum(outputs.clamp(min=0), after - 1) + 0.5
        inputs = torch.arange(0.5, pixels.shape[2 + axis], device=pixels.device)
        weights = axis_weights(inputs, nearest, before / after, before, interpolation, canvas.dtype)
        axes.append((weights * ((outputs >= 0) & (outputs < after))[:, :, None])[:, None])
    return resample(canvas, *axes, clamp=interpolation == "bicubic")[:, 0]
