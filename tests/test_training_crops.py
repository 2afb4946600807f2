"""Training crops against the Renderer they share their crops with, and random erasing against what it shall draw."""

import math

import pytest
import torch

from sslzoo.errors import InputError
from sslzoo.views import IMAGENET_MEAN, IMAGENET_STD, RandAugment, RandomErasing, Renderer, TrainingCrops, View


def smooth(count: int, height: int = 30, width: int = 40, seed: int = 0) -> torch.Tensor:
    """uint8 (count, 3, height, width)"""
    small = torch.rand(count, 3, 4, 5, generator=torch.Generator().manual_seed(seed)) * 255
    return torch.nn.functional.interpolate(small, (height, width), mode="bilinear").round().byte()


def sizes_of(pixels: torch.Tensor) -> torch.Tensor:
    return torch.tensor([pixels.shape[2:]]).expand(len(pixels), 2)


@pytest.mark.parametrize("view", [View(16), View(300, vertical_flip=0.5, interpolation="bicubic", jitter=0.8, brightness=0.4, blur=0.5)])
def test_without_augmentation_they_are_the_renderers_views(view):
    pixels, samples = smooth(5), torch.tensor([5, 2**40, 0, 7, 9])
    sizes = torch.tensor([[30, 40], [20, 40], [30, 10], [8, 8], [30, 40]])
    (expected,) = Renderer([view], seed=3)(pixels, sizes, samples, epoch=2)
    assert torch.equal(TrainingCrops(view, 3)(pixels, sizes, samples, 2), expected)


def test_augments_grey_levels_then_normalises_then_erases():
    pixels, samples, view = smooth(60), torch.arange(60) * 7, View(16)
    sizes, augment, erasing = sizes_of(pixels), RandAugment(probability=0.9), RandomErasing(probability=0.6)
    mean, std = (0.5, 0.4, 0.3), (0.01, 0.1, 1.0)
    ours = TrainingCrops(view, 1, augment, erasing, mean, std)(pixels, sizes, samples, 2)
    (expected,) = Renderer([view], 1)(pixels, sizes, samples, 2)
    wide = [torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD, mean, std)]
    levels = ((expected * wide[1] + wide[0]) * 255).clamp(0, 255)
    expected = erasing((augment(levels, samples, 1, 2) / 255 - wide[2]) / wide[3], samples, 1, 2)
    assert ours.dtype == torch.float32
    # Where an operation has steps, a level that rounding moved over one is elsewhere; in units of the channels' deviations.
    assert (((ours - expected) * wide[3]).abs() > 1e-3).double().mean() < 0.01


def test_a_sample_meets_the_same_crop_in_any_batch():
    pixels, samples = smooth(30), torch.arange(30) * 11
    sizes = sizes_of(pixels)
    crops = TrainingCrops(View(16), 0, RandAugment(), RandomErasing())
    together = crops(pixels, sizes, samples, 4)
    apart = torch.empty_like(together)
    for some in torch.randperm(30, generator=torch.Generator().manual_seed(0)).split(4):
        apart[some] = TrainingCrops(View(16), 0, RandAugment(), RandomErasing())(pixels[some], sizes[some], samples[some], 4)
    assert ((apart - together).abs() > 1e-3).double().mean() < 0.002  # as above
    for other in (crops(pixels, sizes, samples, 5), TrainingCrops(View(16), 1, RandAugment(), RandomErasing())(pixels, sizes, samples, 4)):
        assert ((other - together).abs().amax(dim=(1, 2, 3)) > 0.1).all()


def test_one_view_of_each_image_only():
    for count in (0, 2):
        with pytest.raises(InputError, match=f"view count {count}: .* must be 1"):
            TrainingCrops(View(16, count=count), 0)


# Erasing


def boxes_of(erased: torch.Tensor) -> torch.Tensor:
    """top, left, height, width of what is not 0 in each of the images, (n, 4)."""
    found = []
    for image in erased:
        rows, columns = ((image != 0).any(dim=0).any(dim=axis).nonzero() for axis in (1, 0))
        found.append([rows[0], columns[0], rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1])
    return torch.tensor(found).double()


def test_erases_one_box_of_a_quarter_of_the_images():
    images = RandomErasing()(torch.zeros(6000, 3, 32, 32), torch.arange(6000), 0, 0)
    touched = (images != 0).flatten(1).any(dim=1)
    assert abs(touched.double().mean() - 0.25) < 0.02
    erased = images[touched]
    top, left, height, width = boxes_of(erased).unbind(1)
    assert ((erased != 0).flatten(1).sum(dim=1) - 3 * height * width).abs().max() <= 2, "a full box in every channel, but for a 0 drawn"
    even = torch.linspace(0, 1, len(erased), dtype=torch.float64)
    area = (height * width / 32**2).sort().values
    assert area[0] >= 0.012 and area[-1] <= 0.36 and ((area - 0.02) / (1 / 3 - 0.02) - even).abs().max() < 0.065
    ratio = (width / height).log().sort().values
    assert ratio[-1] < math.log(4.2) and ratio[0] > -math.log(4.2)
    assert ((ratio / math.log(1 / 0.3) + 1) / 2 - even).abs().max() < 0.06
    for start, length in ((top, height), (left, width)):
        place = ((start + 0.5) / (33 - length)).sort().values
        assert (place - even).abs().max() < 0.05


def test_noise_is_standard_normal_and_each_value_its_own():
    images = RandomErasing(probability=1.0, area=(0.9, 0.9), ratio=(1.0, 1.0))(torch.zeros(200, 3, 16, 16), torch.arange(200), 0, 0)
    inside = images[:, :, 2:-2, 2:-2]
    values = inside.flatten().sort().values.double()
    expected = torch.special.ndtr(values)
    assert values.isfinite().all() and (expected - torch.linspace(0, 1, len(values))).abs().max() < 0.01
    between = torch.corrcoef(torch.cat([inside.transpose(0, 1).flatten(1), inside.roll(1, 3).transpose(0, 1).flatten(1)]))
    assert (between - torch.eye(6)).abs().max() < 0.03, "channels and neighbours"
    assert torch.corrcoef(inside.flatten(1)).triu(1).abs().max() < 0.3, "images"


def test_no_number_drawn_is_too_small(monkeypatch):
    monkeypatch.setattr("sslzoo.views.erasing.uniform", lambda samples, columns, *key: torch.zeros(len(samples), columns))
    images = RandomErasing()(torch.zeros(2, 3, 16, 16), torch.arange(2), 0, 0)
    assert images.isfinite().all() and -6 < images.min() < -5


def test_what_is_not_erased_stays_and_what_is_depends_on_the_key_alone():
    images, samples = torch.rand(80, 3, 12, 20, generator=torch.Generator().manual_seed(0)) + 10, torch.arange(80) + 2**35
    erasing = RandomErasing(probability=0.5)
    one = erasing(images.clone(), samples, 1, 2)
    kept = one == images
    assert torch.equal(kept, kept[:, :1].expand_as(kept)) and 20 < kept.flatten(1).all(dim=1).sum() < 60
    assert one[~kept].abs().max() < 6
    other = torch.empty_like(images)
    for some in torch.randperm(80, generator=torch.Generator().manual_seed(0)).split(9):
        other[some] = erasing(images[some], samples[some], 1, 2)
    assert torch.equal(one, other)
    for key in ((2, 2), (1, 3)):
        other = erasing(images.clone(), samples, *key)
        both = ~kept & (other != images)
        assert both.any() and not (other == one)[both].any(), "the noise"
        chosen = [(erased != images).flatten(1).any(dim=1) for erased in (one, other)]
        assert 0.2 < (chosen[0] == chosen[1]).double().mean() < 0.8, "the choice"
    assert torch.equal(RandomErasing(probability=0.0)(images.clone(), samples, 1, 2), images)
