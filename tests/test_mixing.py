"""Mixed images and labels against what is plain by hand: each image is of one value, so that its px tell what became of it."""

import numpy as np
import pytest
import torch
from scipy import stats

from sslzoo.evaluation.mixing import mix

LABELS = torch.tensor([2, 0, 1, 3])


def flat(height: int = 10, width: int = 10) -> torch.Tensor:
    """Four images of the values 0, 1, 2 and 3."""
    return torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, height, width).contiguous()


def mixed(seed: int, mixup: float, cutmix: float, smoothing: float = 0.0, images: torch.Tensor | None = None):
    images = flat() if images is None else images
    return mix(images, LABELS, 4, mixup=mixup, cutmix=cutmix, smoothing=smoothing, draw=np.random.default_rng(seed))


def test_without_mixing_labels_are_smoothed():
    images = flat()
    same, targets = mixed(0, 0.0, 0.0, smoothing=0.2, images=images)
    assert torch.equal(same, flat()) and targets.dtype == torch.float32
    torch.testing.assert_close(targets, torch.tensor([[5, 5, 85, 5], [85, 5, 5, 5], [5, 85, 5, 5], [5, 5, 5, 85]]) / 100)
    assert mixed(0, 0.0, 0.0)[1].tolist() == [[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]


def test_mixup_blends_images_and_labels_alike():
    shares = []
    for seed in range(300):
        images, targets = mixed(seed, 0.8, 0.0, smoothing=0.4)
        assert (images - images[:, :1, :1, :1]).abs().max() == 0
        own = 1 - float(images[0, 0, 0, 0]) / 3  # the first was 0, its partner, the last, 3
        torch.testing.assert_close(images[:, 0, 0, 0], own * torch.arange(4.0) + (1 - own) * torch.arange(4.0).flip(0))
        torch.testing.assert_close(targets[0], torch.tensor([0.1, 0.1, 0.1 + 0.6 * own, 0.1 + 0.6 * (1 - own)]))
        torch.testing.assert_close(targets[1], torch.tensor([0.1 + 0.6 * own, 0.1 + 0.6 * (1 - own), 0.1, 0.1]))
        shares.append(own)
    assert stats.kstest(shares, stats.beta(0.8, 0.8).cdf).pvalue > 0.01
    assert stats.kstest(shares, stats.beta(0.4, 0.4).cdf).pvalue < 0.01


def test_cutmix_labels_have_the_share_that_was_pasted():
    pastes = []
    for seed in range(300):
        images, targets = mixed(seed, 0.0, 1.0, images=flat(12, 20))
        pasted = images[0, 0] == 3
        assert torch.equal(images[0, 0], 3.0 * pasted) and torch.equal(images[0], images[0, :1].expand(3, 12, 20))
        assert torch.equal(images[1, 0], torch.where(pasted, 2.0, 1.0)) and torch.equal(images[3, 0], 3.0 * ~pasted)
        share = float(pasted.double().mean())
        torch.testing.assert_close(targets[0], torch.tensor([0, 0, 1 - share, share]))
        torch.testing.assert_close(targets[3], torch.tensor([0, 0, share, 1 - share]))
        rows, columns = pasted.any(dim=1), pasted.any(dim=0)
        assert torch.equal(pasted, rows[:, None] & columns), "a box"
        pastes.append(pasted)
    shown = torch.stack(pastes).double().mean(dim=0)
    assert abs(shown - shown.flip(0)).max() < 0.15 and abs(shown - shown.flip(1)).max() < 0.15, "anywhere"
    assert torch.stack(pastes)[:, 0].any(dim=1).double().mean() > 0.1, "cut at the borders"


def test_the_box_has_the_share_that_was_drawn_unless_cut():
    """Beta(500, 500) is a half, so the sides are 0.71 of the image's: 28 of 40 px and 56 of 80, in even numbers."""
    heights, widths = set(), set()
    for seed in range(60):
        pasted = mixed(seed, 0.0, 500.0, images=flat(40, 80))[0][0, 0] == 3
        heights.add(int(pasted.any(dim=1).sum()))
        widths.add(int(pasted.any(dim=0).sum()))
    assert 26 <= max(heights) <= 30 and 52 <= max(widths) <= 60
    assert 13 <= min(heights) < 20 and 26 <= min(widths) < 40, "at least half is left where its centre is at a border"


def test_half_of_the_batches_are_cut_and_all_are_functions_of_the_seed():
    blended = []
    for seed in range(400):
        images, targets = mixed(seed, 0.8, 500.0, smoothing=0.1)
        if (images != images.round()).any():
            blended.append(1 - float(images[0, 0, 0, 0]) / 3)
        torch.testing.assert_close(targets.sum(dim=1), torch.ones(4))
    assert abs(len(blended) / 400 - 0.5) < 0.08
    assert stats.kstest(blended, stats.beta(0.8, 0.8).cdf).pvalue > 0.01, "each with its own distribution"
    one, again, other = (mixed(seed, 0.8, 1.0) for seed in (5, 5, 6))
    assert torch.equal(one[0], again[0]) and torch.equal(one[1], again[1]) and not torch.equal(one[1], other[1])


@pytest.mark.parametrize("mixup, cutmix", [(0.8, 0.0), (0.0, 1.0)])
def test_what_is_given_stays(mixup, cutmix):
    images = flat()
    for seed in range(5):
        mixed(seed, mixup, cutmix, images=images)
    assert torch.equal(images, flat())
    images, targets = mix(flat()[:3].half(), LABELS[:3], 4, mixup=mixup, cutmix=cutmix, smoothing=0.0, draw=np.random.default_rng(1))
    assert images.dtype == torch.float16 and targets[1].tolist() == pytest.approx([1, 0, 0, 0]), "in an odd batch the middle stays"
