"""Masks of whole blocks of patches: iBOT's (arXiv:2111.07832), which are BEiT's (arXiv:2106.08254), and I-JEPA's (arXiv:2301.08243)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_BLOCKS, _TRIES, _NUMBERS = 10, 10, 4
BLOCK_COLUMNS = 2 + _BLOCKS * _TRIES * _NUMBERS  # uniform numbers for a mask of blocks
_TARGETS = 4
_TARGET_SCALE, _TARGET_ASPECT, _CONTEXT_SCALE = (0.15, 0.2), (0.75, 1.5), (0.85, 1.0)


def block_masks(noise: Tensor, side: int, ratio: tuple[float, float], masked_share: float, smallest: int) -> Tensor:
    """Which patches of each image are masked, bool (n, side * side), in rectangles that may overlap.

    An image is masked at all with probability `masked_share`. If it is, between ratio[0] and ratio[1] of its patches are wanted, and
    blocks are placed until so many are masked. A block has between `smallest` patches and all that are still missing, and a height of
    0.3 to 1 / 0.3 widths; it is taken if it fits, adds a patch, and adds no more than are missing. After ten that are not taken the mask
    stays as it is, so that masks fall short of what is wanted, and never exceed it. So do the papers' codes, which place any number of
    blocks where here are ten.

    noise: uniform (n, BLOCK_COLUMNS). The same operations whatever the numbers are: no shape depends on them.
    """
    chosen, wanted = noise[:, 0] < masked_share, ratio[0] + (ratio[1] - ratio[0]) * noise[:, 1]
    wanted = torch.where(chosen, wanted * side * side, 0.0)
    mask = noise.new_zeros(len(noise), side, side, dtype=torch.bool)
    going_on = chosen
    for numbers in noise[:, 2:].unflatten(1, (_BLOCKS, _TRIES, _NUMBERS)).unbind(1):
        missing = (wanted - mask.sum(dim=(1, 2)))[:, None]
        area_noise, aspect_noise, row_noise, column_noise = numbers.unbind(-1)
        area = smallest + (missing - smallest) * area_noise  # where fewer than `smallest` are missing, the interval runs backwards
        aspect = (math.log(0.3) * (1 - 2 * aspect_noise)).exp()
        height, width = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
        blocks = torch.stack((_corner(row_noise, height, side), _corner(column_noise, width, side), height, width))
        added = _patches_inside(~mask, blocks.long())
        taken = (height < side) & (width < side) & (added > 0) & (added <= missing)
        going_on = going_on & taken.any(dim=1)
        first = taken.int().argmax(dim=1)[None, :, None]
        block = _rectangles(blocks.gather(2, first.expand(4, -1, -1)), side)[:, 0]
        mask = mask | (block & going_on[:, None, None])
    return mask.flatten(1)


def masked_patches(mask: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Where a mask (n, patches) is true, ascending: indices int64 (n, most), and which of them are such, bool (n, most).

    most: at least as many as any image has; the rest are indices of other patches.
    """
    indices = mask.int().argsort(dim=1, descending=True, stable=True)[:, :most]
    return indices, mask.gather(1, indices)


def jepa_columns(side: int) -> int:
    """How many uniform numbers `jepa_masks` needs for an image."""
    return 2 + 2 * (_TARGETS + 1) + side * side


def jepa_masks(noise: Tensor, side: int, context: int, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """I-JEPA's context and targets: int64 (n, context), int64 (n, 4, most), and which of the targets' places are such, bool.

    The four targets of an image are blocks of one size, 15 to 20 % of its patches with a height of 0.75 to 1.5 widths; they may overlap.
    The context is drawn at random from a block of 85 to 100 % of the patches without those of the targets. Where that has too few, the
    others outside the targets follow, and then, so that no target is ever seen, the same ones again.

    The authors' code draws one size for all images of a device's batch, and to stack them cuts every context to the shortest, of which
    it keeps the upper rows: a context has 59 patches of 14 x 14 among 16 images and 51 among 128, and never one of the lowest. Its
    blocks never reach the last row and column. Here an image has the same masks whatever batch it is in, sizes are its own, contexts
    are equally large without a cut, and every patch takes part.

    noise: uniform (n, jepa_columns(side)). No shape depends on it. most: `most_targets(side)`.
    """
    sizes, corners, order = noise.split((2, 2 * (_TARGETS + 1), side * side), dim=1)
    height, width = (length.expand(-1, _TARGETS) for length in _target_sides(sizes[:, :1], side))
    context_side = _sides(sizes[:, 1:], 1.0, _CONTEXT_SCALE, side)[0]
    row_noise, column_noise = corners.split(_TARGETS + 1, dim=1)
    top, left = _corner(row_noise[:, 1:], height, side), _corner(column_noise[:, 1:], width, side)
    covered = _rectangles(torch.stack((top, left, height, width)), side).any(dim=1).flatten(1)
    corner = _corner(row_noise[:, :1], context_side, side), _corner(column_noise[:, :1], context_side, side)
    block = _rectangles(torch.stack((*corner, context_side, context_side)), side).flatten(1)
    order = (order + ~block + 2 * covered).argsort(dim=1)
    free = (~covered).sum(dim=1, keepdim=True).clamp(min=1)
    chosen = order.gather(1, torch.arange(context, device=noise.device) % free).sort(dim=1).values

    top, left, height, width = (values.long()[..., None] for values in (top, left, height, width))
    place = torch.arange(most, device=noise.device)
    inside = place < height * width
    rows, columns = top + place // width, left + place % width
    return chosen, torch.where(inside, rows * side + columns, 0), inside


def most_targets(side: int) -> int:
    """How many patches the largest of I-JEPA's targets has. Computed on the CPU, once: not for a compiled graph."""
    height, width = _target_sides(torch.linspace(0, 1, 10001, device="cpu"), side)
    return int((height * width).max())


def _target_sides(noise: Tensor, side: int) -> tuple[Tensor, Tensor]:
    low, high = _TARGET_ASPECT
    return _sides(noise, low + (high - low) * noise, _TARGET_SCALE, side)


def _sides(noise: Tensor, aspect: Tensor | float, scale: tuple[float, float], side: int) -> tuple[Tensor, Tensor]:
    """Height and width, less than `side` and at least 1, of blocks whose area is a share of all patches between those of `scale`."""
    area = (side * side * (scale[0] + (scale[1] - scale[0]) * noise)).floor()
    largest = max(1, side - 1)
    return (area * aspect).sqrt().round().clamp(1, largest), (area / aspect).sqrt().round().clamp(1, largest)


def _corner(noise: Tensor, length: Tensor, side: int) -> Tensor:
    """The first row (column) of blocks of this height (width), at any place where they fit."""
    return (noise * (side - length + 1)).floor()


def _rectangles(blocks: Tensor, side: int) -> Tensor:
    """Blocks, (4, n, blocks): their tops, lefts, heights and widths, as masks, bool (n, blocks, side, side)."""
    top, left, height, width = blocks[..., None]
    line = torch.arange(side, device=blocks.device)
    rows, columns = (line >= top) & (line < top + height), (line >= left) & (line < left + width)
    return rows[..., :, None] & columns[..., None, :]


def _patches_inside(mask: Tensor, blocks: Tensor) -> Tensor:
    """How many patches of the mask (n, side, side) are inside each block, int64 (4, n, blocks) as above: int64 (n, blocks).

    By the sums over all rectangles that begin in the first patch, so that no block is spelt out.
    """
    side = mask.shape[-1]
    sums = F.pad(mask.long().cumsum(dim=1).cumsum(dim=2), (1, 0, 1, 0)).flatten(1)
    top, left, height, width = blocks
    rows, columns = (
        torch.stack((start, start + length)).clamp(0, side) for start, length in ((top, height), (left, width))
    )
    (top_left, top_right), (bottom_left, bottom_right) = (
        [sums.gather(1, row * (side + 1) + column) for column in columns] for row in rows
    )
    return bottom_right - top_right - bottom_left + top_left
