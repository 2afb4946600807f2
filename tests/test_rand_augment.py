"""RandAugment against Pillow, one operation after the other, and against the policy it shall draw."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from sslzoo.views import RandAugment
from sslzoo.views.rand_augment import OPERATIONS

FILL = (124, 116, 104)  # ImageNet's mean colour
GEOMETRIC = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")

# What the policy does at a magnitude: degrees, bits kept, threshold, amount added, factor, shear and shift as a share of the side.
POLICY = {
    0: (0, 4, 256, 0, 1.0, 0.0, 0.0),
    2: (6, 4, 205, 22, 1.18, 0.06, 0.09),
    5: (15, 2, 128, 55, 1.45, 0.15, 0.225),
    9: (27, 1, 26, 99, 1.81, 0.27, 0.405),
    10: (30, 0, 0, 110, 1.9, 0.3, 0.45),
}


def picture(height: int = 37, width: int = 48, seed: int = 0) -> Image.Image:
    """Smooth areas with hard edges, some texture and little of either end."""
    draw = np.random.default_rng(seed)
    small = Image.fromarray(draw.integers(20, 236, (4, 5, 3), dtype=np.uint8))
    image = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).astype(np.float64) * 0.8 + 20
    image[height // 3 : height // 2, width // 4 : width // 2] = (200, 60, 90)
    return Image.fromarray((image + draw.normal(0, 4, image.shape)).round().clip(8, 240).astype(np.uint8))


def tensor(*images: Image.Image) -> torch.Tensor:
    return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1).float() for image in images])


def by_pillow(name: str, image: Image.Image, magnitude: int, sign: int) -> Image.Image:
    degrees, bits, threshold, amount, factor, shear, shift = POLICY[magnitude]
    factor = factor if sign > 0 else 2 - factor
    how = {"resample": Image.Resampling.BILINEAR, "fillcolor": FILL}
    affine = {
        "shear_x": (1, sign * shear, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, sign * shear, 1, 0),
        "translate_x": (1, 0, sign * shift * image.width, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, sign * shift * image.height),
    }
    if name in affine:
        return image.transform(image.size, Image.Transform.AFFINE, affine[name], **how)
    if name in ("color", "contrast", "brightness", "sharpness"):
        return getattr(ImageEnhance, name.title())(image).enhance(factor)
    return {
        "auto_contrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
        "invert": lambda: ImageOps.invert(image),
        "rotate": lambda: image.rotate(sign * degrees, **how),
        "posterize": lambda: ImageOps.posterize(image, bits),
        "solarize": lambda: ImageOps.solarize(image, threshold),
        "solarize_add": lambda: image.point([value + amount if value < 128 else value for value in range(256)] * 3),
    }[name]()


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_is_pillows(name):
    """Exact where grey levels are mapped to grey levels, else within one level, which Pillow cuts off, and what it rounded before."""
    cases = [(seed, magnitude, sign) for seed, magnitude in enumerate(POLICY) for sign in (1, -1)]
    images = tensor(*(picture(seed=seed) for seed, _, _ in cases))
    ours = OPERATIONS[name](images.clone(), torch.tensor([sign * magnitude / 10 for _, magnitude, sign in cases]))
    theirs = tensor(*(by_pillow(name, picture(seed=seed), magnitude, sign) for seed, magnitude, sign in cases))
    difference = (ours - theirs).abs().amax(dim=1)
    assert ours.min() >= 0 and ours.max() <= 255
    if name in ("equalize", "invert", "posterize", "solarize", "solarize_add"):
        assert difference.max() == 0
    else:
        assert difference.max() <= (1.45 if name in ("color", "contrast", "sharpness") else 1.001)


def test_geometry_fills_with_the_mean_colour():
    images = torch.zeros(1, 3, 20, 20)
    for name in GEOMETRIC:
        filled = OPERATIONS[name](images.clone(), torch.ones(1))[0].permute(1, 2, 0)
        colours = filled.flatten(0, 1).unique(dim=0).tolist()
        assert colours == [[0, 0, 0], list(FILL)], name


def test_channels_that_cannot_be_stretched_stay():
    flat = Image.new("RGB", (30, 20), (70, 0, 255))
    few = picture(4, 5)  # fewer px than grey levels
    for image in (flat, few):
        for name in ("auto_contrast", "equalize"):
            ours, theirs = OPERATIONS[name](tensor(image), torch.zeros(1)), tensor(by_pillow(name, image, 0, 1))
            assert (ours - theirs).abs().max() <= (1.001 if name == "auto_contrast" else 0), name
            assert image is few or torch.equal(ours, tensor(flat))


def test_images_of_a_batch_do_not_meet():
    """Contrast, auto-contrast and equalize have a table for each image, and for each channel where Pillow's has one."""
    images, levels = tensor(picture(seed=0), picture(seed=1), Image.new("RGB", (48, 37), (9, 9, 9))), torch.tensor([0.9, -0.5, 0.7])
    for name, operation in OPERATIONS.items():
        together = operation(images.clone(), levels)
        for place in range(3):
            alone = operation(images[place : place + 1].clone(), levels[place : place + 1])
            torch.testing.assert_close(together[place : place + 1], alone, atol=1e-3, rtol=0, msg=name)


def test_draws_the_policy():
    count = 12000
    rounds = RandAugment().drawn(torch.arange(count), 0, 0)
    assert len(rounds) == 2
    for kinds, levels in rounds:
        counts = kinds.bincount(minlength=16)
        assert counts.sum() == count and abs(counts[15] / count - 0.5) < 0.02, "half are not applied"
        assert (counts[:15] - count / 30).abs().max() < 4 * (count / 30) ** 0.5, "the others evenly"
        assert abs((levels > 0).double().mean() - 0.5) < 0.02
        magnitudes = 10 * levels.abs().double()
        assert magnitudes.max() == 10 and abs((magnitudes == 10).double().mean() - 0.0228) < 0.006, "two deviations above 9"
        assert abs(magnitudes.median() - 9) < 0.02
        drawn = torch.stack([kinds, levels.sign(), magnitudes])[:, kinds < 15]
        assert (torch.corrcoef(drawn) - torch.eye(3)).abs().max() < 0.05, "kind, sign and strength say nothing of each other"
        assert [float((magnitudes < limit).double().mean()) for limit in (8.5, 9.5)] == pytest.approx([0.1587, 0.8413], abs=0.015)
    (first, one), (second, other) = rounds
    assert abs((first == second).double().mean() - (0.25 + 15 / 900)) < 0.02, "one says nothing of the other"
    assert abs(torch.corrcoef(torch.stack([one, other]))[0, 1]) < 0.03
    both = (first < 15) & (second < 15) & (first == second)
    assert both.any(), "with replacement"


def test_draws_within_the_magnitudes_and_without_deviation_always_the_same():
    ((_, levels),) = RandAugment(count=1, magnitude=0.0, deviation=2.0).drawn(torch.arange(500), 0, 0)
    assert levels.abs().max() < 1 and abs((levels == 0).double().mean() - 0.5) < 0.1
    ((kinds, levels),) = RandAugment(count=1, probability=1.0, deviation=0.0).drawn(torch.arange(500), 0, 0)
    assert levels.abs().unique().tolist() == pytest.approx([0.9]) and kinds.max() == 14


def test_no_number_drawn_is_too_small(monkeypatch):
    monkeypatch.setattr("sslzoo.views.rand_augment.uniform", lambda samples, columns, *key: torch.zeros(len(samples), columns))
    for deviation, level in ((0.0, 0.9), (0.5, 0.629)):  # one number in 2**24 is 0; taken as half a step, 5.4 deviations below
        for kinds, levels in RandAugment(deviation=deviation).drawn(torch.arange(2), 0, 0):
            assert kinds.tolist() == [0, 0] and levels.abs().tolist() == pytest.approx([level] * 2, abs=0.003)


def test_applies_what_it_draws_one_after_the_other():
    samples = torch.arange(120) * 31
    images = tensor(*(picture(16, 16, seed) for seed in range(120)))
    augment = RandAugment(count=2, probability=0.8)
    expected = images.clone()
    for kinds, levels in augment.drawn(samples, 3, 4):
        assert set(kinds.tolist()) == set(range(16))
        for place, (kind, level) in enumerate(zip(kinds.tolist(), levels, strict=True)):
            if kind < 15:
                expected[place] = list(OPERATIONS.values())[kind](expected[place : place + 1], level[None])[0]
    torch.testing.assert_close(augment(images, samples, 3, 4), expected, atol=1e-3, rtol=0)


def test_a_sample_meets_the_same_in_any_batch_and_another_with_another_key():
    samples = torch.arange(40) + 2**33
    images = tensor(*(picture(16, 16, seed) for seed in range(40)))
    augment = RandAugment(probability=1.0)
    together = augment(images.clone(), samples, 1, 2)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    apart = torch.empty_like(images)
    for some in order.split(7):
        apart[some] = augment(images[some], samples[some], 1, 2)
    torch.testing.assert_close(apart, together, atol=1e-3, rtol=0)
    for others, seed, epoch in ((samples, 2, 2), (samples, 1, 3), (samples + 40, 1, 2)):
        other = augment(images.clone(), others, seed, epoch)
        assert ((other - together).abs().amax(dim=(1, 2, 3)) > 1).double().mean() > 0.9
