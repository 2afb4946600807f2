"""All views of one size rendered together, and nothing branches on what was drawn: for a GPU, for the compiler and for small images."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .blur import blur
from .color import JITTER, grayscale, jitter, solarize
from .crop import crop
from .draws import Draws
from .view import View


def render_jointly(
    views: Sequence[View], canvas: Tensor, sizes: Tensor, drawn: Draws, normalization: Tensor, paint: Callable[..., Tensor]
) -> Tensor:
    """The views, float32 (views, n, channels, size, size), normalised.

    views: of one size, interpolation, padding and place of solarize. drawn: for these views.
    canvas: floating point (n, channels, H, W), 0..255. sizes: int64 (n, 2). normalization: as the function of this name gives it.
    paint: `paint_jointly`, or the same compiled.
    """
    first = views[0]
    images = crop(canvas, sizes, drawn.boxes, drawn.mirrored, first.size, first.interpolation, first.padding)
    return paint(views, images, drawn, normalization)


def paint_jointly(views: Sequence[View], images: Tensor, drawn: Draws, normalization: Tensor) -> Tensor:
    """The images, (n, views, channels, size, size), 0..255, with their views' colours, as `render_jointly` does. May work in place."""
    dtype, images = images.dtype, torch.empty(images.shape, device=images.device).copy_(images)
    used = [column for column, name in enumerate(JITTER) if any(view.jitter > 0 and getattr(view, name) > 0 for view in views)]
    solarized = any(view.solarize > 0 for view in views)
    if used:
        amounts, order = drawn.amounts, drawn.order
        if len(used) < len(JITTER):
            amounts, order = (torch.stack([part[..., column] for column in used], dim=-1) for part in (amounts, order))
        images = jitter(images, amounts, order.argsort(dim=-1), [JITTER[column] for column in used])
    if any(view.grayscale > 0 for view in views):
        images = grayscale(images, drawn.grayscale.squeeze(-1))
    if solarized and views[0].solarize_first:
        images = solarize(images, drawn.solarize.squeeze(-1))
    if any(view.blur > 0 for view in views):
        images = blur(images.flatten(0, 1), drawn.sigmas.flatten(), dtype).unflatten(0, images.shape[:2])
    if solarized and not views[0].solarize_first:
        images = solarize(images, drawn.solarize.squeeze(-1))
    scale, shift = normalization.unbind()
    images = images.transpose(0, 1)
    return torch.mul(images, scale, out=torch.empty(images.shape, device=images.device)).add_(shift)
