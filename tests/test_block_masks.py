"""Masks of blocks against a loop over one image's tries with the same random numbers, and the statistics of the papers' codes."""

import math

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from sslzoo.parts.block_masks import BLOCK_COLUMNS, block_masks, jepa_columns, jepa_masks, masked_patches, most_targets

IMAGES = 20_000


def noise(count, columns, seed=0):
    return torch.rand(count, columns, generator=torch.Generator().manual_seed(seed))


def many_block_masks(*settings):
    """Of `IMAGES` images, in parts that fit the processor's cache, which takes half the time."""
    return torch.cat([block_masks(part, *settings) for part in noise(IMAGES, BLOCK_COLUMNS).split(2000)])


def plain_block_mask(numbers, side, smallest):
    """One image, as iBOT's code goes about it: a set of masked patches, row-major."""
    numbers = iter(numbers.tolist())
    if next(numbers) >= 0.5:
        return set()
    wanted, masked = (0.1 + 0.4 * next(numbers)) * side * side, set()
    for _ in range(10):
        tries, missing = [[next(numbers) for _ in range(4)] for _ in range(10)], wanted - len(masked)
        for area, aspect, row, column in tries:
            area, aspect = smallest + (missing - smallest) * area, math.exp(math.log(0.3) * (1 - 2 * aspect))
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if height < side and width < side:
                top, left = int(row * (side - height + 1)), int(column * (side - width + 1))
                block = {y * side + x for y in range(top, top + height) for x in range(left, left + width)}
                if 0 < len(block - masked) <= missing:
                    masked |= block
                    break
        else:
            break
    return masked


@pytest.mark.parametrize(("side", "smallest"), [(14, 16), (16, 4), (4, 1)])
def test_blocks_are_those_of_the_loop(side, smallest):
    numbers = noise(150, BLOCK_COLUMNS)
    masks = block_masks(numbers, side, (0.1, 0.5), 0.5, smallest)
    for mask, row in zip(masks, numbers, strict=True):
        assert set(mask.nonzero().flatten().tolist()) == plain_block_mask(row, side, smallest)


def test_ibots_masks_have_the_statistics_of_its_code():
    masks = many_block_masks(14, (0.1, 0.5), 0.5, 16)
    counts = masks.sum(dim=1)
    within = counts[counts > 0].float()
    assert counts.float().mean() / 196 == pytest.approx(0.147, rel=0.01)
    assert within.mean() / 196 == pytest.approx(0.293, rel=0.01)
    assert (counts == 0).float().mean() == pytest.approx(0.498, rel=0.01)
    assert within.quantile(torch.tensor([0.1, 0.5, 0.9])).tolist() == pytest.approx([26, 58, 89], abs=1.5)
    assert counts.max() <= 98, "no mask exceeds what is wanted"
    assert masks.float().mean(dim=0).min() > 0.01, "every patch is masked at times"


@pytest.mark.parametrize(("side", "mean"), [(14, 58.2), (16, 76.2)])
def test_dinov2s_masks_have_the_statistics_of_its_code(side, mean):
    counts = many_block_masks(side, (0.1, 0.5), 1.0, 4).sum(dim=1).float()
    assert counts.mean() == pytest.approx(mean, rel=0.01) and counts.min() > 0.1 * side * side - 4


def test_indices_of_masked_patches_are_padded_and_marked():
    mask = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 0], [1, 0, 0, 1]]).bool()
    indices, valid = masked_patches(mask, 3)
    assert [row[known].tolist() for row, known in zip(indices, valid, strict=True)] == [[1, 2], [], [0, 3]]
    assert indices.shape == (3, 3) and all(len(set(row.tolist())) == 3 for row in indices)


def plain_target(u, side):
    area, aspect = int(side * side * (0.15 + 0.05 * u)), 0.75 + 0.75 * u
    return tuple(min(max(round(math.sqrt(length)), 1), side - 1) for length in (area * aspect, area / aspect))


@pytest.mark.parametrize("side", [14, 16, 8, 4])
def test_jepas_targets_are_blocks_and_its_context_is_outside_them(side):
    numbers, count = noise(2000, jepa_columns(side)), side * side // 4
    context, targets, inside = jepa_masks(numbers, side, count, most_targets(side))
    assert context.shape == (2000, count) and targets.shape == inside.shape == (2000, 4, most_targets(side))
    for index in range(0, 2000, 40):
        height, width = plain_target(numbers[index, 0].item(), side)
        for target, valid in zip(targets[index], inside[index], strict=True):
            places = target[valid].tolist()
            top, left = divmod(places[0], side)
            assert places == [(top + y) * side + left + x for y in range(height) for x in range(width)]
            assert top + height <= side and left + width <= side
    covered = torch.zeros(2000, side * side).scatter_add(1, targets.flatten(1), inside.flatten(1).float()) > 0
    seen = covered.gather(1, context)
    assert not seen[~covered.all(dim=1)].any(), "no target is ever part of the context"
    enough = (~covered).sum(dim=1) >= count
    assert enough.float().mean() > (0.999 if side > 4 else 0.9)
    assert all(len(set(row.tolist())) == count for row in context[enough][:200])


@pytest.mark.parametrize(("side", "mean"), [(14, 33), (16, 44)])
def test_jepas_targets_have_the_sizes_of_its_code(side, mean):
    """The means are known to whole patches, from 150 batches with one size each."""
    _, _, inside = jepa_masks(noise(IMAGES, jepa_columns(side)), side, 8, most_targets(side))
    assert inside.sum(dim=2).float().mean() == pytest.approx(mean, rel=0.015)
    if side == 14:
        assert {plain_target(u / 1000, 14) for u in range(1001)} == {(5, 6), (6, 5), (6, 6), (7, 5), (8, 5)}


def test_jepas_context_is_most_of_the_block_before_it_is_drawn_and_reaches_every_patch():
    context, targets, inside = jepa_masks(noise(IMAGES, jepa_columns(14)), 14, 49, 40)
    share = torch.zeros(196).scatter_add(0, context.flatten(), torch.ones(context.numel())) / IMAGES
    assert share.min() > 0.05 and share.sum() == pytest.approx(49, rel=1e-4)
    hit = torch.zeros(196).scatter_add(0, targets.flatten(), inside.flatten().float()) / IMAGES
    assert hit.min() > 0.01, "the last row and column too"


def test_masks_depend_on_their_own_image_alone():
    def masks(first, last):
        blocks = block_masks(noise(6, BLOCK_COLUMNS)[first:last], 14, (0.1, 0.5), 0.5, 16)
        return blocks, *jepa_masks(noise(6, jepa_columns(14))[first:last], 14, 49, 40)

    for alone, together in zip(masks(2, 4), masks(0, 6), strict=True):
        assert torch.equal(alone, together[2:4])


def test_masks_are_one_graph_without_shapes_that_depend_on_numbers():
    torch._dynamo.reset()
    counter = CompileCounter()
    ours = torch.compile(lambda rows: masked_patches(block_masks(rows, 14, (0.1, 0.5), 0.5, 16), 98), backend=counter, fullgraph=True)
    theirs = torch.compile(lambda rows: jepa_masks(rows, 14, 49, 40), backend=counter, fullgraph=True)
    for seed in range(2):
        ours(noise(4, BLOCK_COLUMNS, seed)), theirs(noise(4, jepa_columns(14), seed))
    assert counter.frame_count == 2
    torch._dynamo.reset()
    blocks = block_masks(noise(4, BLOCK_COLUMNS).to("meta"), 14, (0.1, 0.5), 0.5, 16)
    for mask in (blocks, *jepa_masks(noise(4, jepa_columns(14)).to("meta"), 14, 49, 40)):
        assert mask.device.type == "meta" and len(mask) == 4
