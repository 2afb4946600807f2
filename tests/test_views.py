"""Views against Pillow, against plain per-pixel references and against the distributions they shall have."""

import colorsys
import io
import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch
from PIL import Image, ImageFilter
from torch._dynamo.testing import CompileCounter
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BitImageProcessorPil

from sslzoo.errors import InputError
from sslzoo.methods.dino import DINO
from sslzoo.methods.simclr import SimCLR
from sslzoo.views import IMAGENET_MEAN, IMAGENET_STD, Renderer, View, center_crop, hash_words, uniform
from sslzoo.views.blur import blur, blur_one
from sslzoo.views.boxes import TRIES, draw_boxes
from sslzoo.views.by_image import crop_one
from sslzoo.views.color import grayscale, jitter, normalize, solarize
from sslzoo.views.crop import crop, to_canvas

PHOTOS = Path(__file__).parents[1] / "../shared/data/photos/test.parquet"
PLAIN = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "horizontal_flip": 0.0}
STRONG = {"jitter": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
FULL = View(24, **STRONG, grayscale=0.2, blur=0.5, solarize=0.2, vertical_flip=0.5, padding=0.1)


def photo_like(height: int, width: int, seed: int) -> np.ndarray:
    """uint8 (height, width, 3): smooth areas, hard edges, fine texture and values at both ends."""
    draw = np.random.default_rng(seed)
    small = Image.fromarray(draw.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    image = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).astype(np.float64)
    for _ in range(6):
        top, left = draw.integers(0, height), draw.integers(0, width)
        image[top : top + height // 3, left : left + width // 4] = draw.integers(0, 256, 3)
    image += draw.normal(0, 12, image.shape)
    image[: height // 8, : width // 8] = draw.choice([0, 255], (height // 8, width // 8, 1))
    return image.round().clip(0, 255).astype(np.uint8)


def photos() -> list[np.ndarray]:
    """Synthetic images of several shapes and, where they are at hand, some real ones."""
    images = [photo_like(*shape, seed) for seed, shape in enumerate([(375, 500), (97, 143), (240, 180), (32, 32)])]
    if PHOTOS.exists():
        encoded = parquet.read_table(PHOTOS)["image"].to_pylist()[:4]
        images += [np.asarray(Image.open(io.BytesIO(one["bytes"])).convert("RGB"))[:600, :600] for one in encoded]
    return images


def batch(images: list[np.ndarray], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels uint8 (n, 3, H, W) and sizes; what is not image on the canvas is noise."""
    sizes = torch.tensor([image.shape[:2] for image in images])
    height, width = sizes.amax(dim=0).tolist()
    pixels = torch.randint(0, 256, (len(images), 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    for canvas, image in zip(pixels, images, strict=True):
        canvas[:, : image.shape[0], : image.shape[1]] = torch.from_numpy(image.copy()).permute(2, 0, 1)
    return pixels, sizes


def levels(normalized: torch.Tensor) -> torch.Tensor:
    """Normalised images back to 0..255."""
    return (normalized * torch.tensor(IMAGENET_STD).view(3, 1, 1) + torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) * 255


def random_images(count: int, size: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 255


# The crop against Pillow


def random_box(image: np.ndarray, draw: np.random.Generator) -> list[int]:
    height, width = (int(draw.integers(max(1, side // 8), side + 1)) for side in image.shape[:2])
    return [int(draw.integers(0, image.shape[0] - height + 1)), int(draw.integers(0, image.shape[1] - width + 1)), height, width]


def pillow_crop(image: np.ndarray, box: list[int], size: int, resampling: Image.Resampling) -> torch.Tensor:
    top, left, height, width = box
    cut = Image.fromarray(image).crop((left, top, left + width, top + height))  # beyond the image Pillow's crop is black
    if resampling == Image.Resampling.BICUBIC:
        # Pillow cuts to 0..255 after each axis, and which is first depends on its version and the shape.
        cut = cut.resize((size, height), resampling, reducing_gap=None)
    return torch.from_numpy(np.array(cut.resize((size, size), resampling, reducing_gap=None))).permute(2, 0, 1).double()


def crop_of(canvas: torch.Tensor, sizes: torch.Tensor, boxes: torch.Tensor, mirrored: torch.Tensor, *how, **more) -> torch.Tensor:
    """One box of each image."""
    return crop(canvas, sizes, boxes[:, None], mirrored[:, None], *how, **more)[:, 0]


def compared_to_pillow(size: int, interpolation: str, canvas_type: torch.dtype = torch.float32) -> torch.Tensor:
    """Differences to Pillow in grey levels, of three crops of each photo."""
    images, draw = photos() * 3, np.random.default_rng(size)
    boxes = [random_box(image, draw) for image in images]
    pixels, sizes = batch(images)
    mirrored = torch.zeros(len(images), 2, dtype=torch.bool)
    ours = crop_of(pixels.to(canvas_type), sizes, torch.tensor(boxes), mirrored, size, interpolation)
    resampling = getattr(Image.Resampling, interpolation.upper())
    theirs = torch.stack([pillow_crop(image, box, size, resampling) for image, box in zip(images, boxes, strict=True)])
    return (ours.double() - theirs).abs()


@pytest.mark.parametrize("size", [32, 96, 224])
def test_bilinear_crops_are_within_one_level_of_pillow(size):
    difference = compared_to_pillow(size, "bilinear")
    assert difference.max() <= 1.001  # Pillow rounds after each axis: twice half a level, and its weights have 22 bits
    assert difference.mean() <= 0.32


@pytest.mark.parametrize("size", [32, 96, 224])
def test_bicubic_crops_are_pillows_but_for_its_rounding(size):
    difference = compared_to_pillow(size, "bicubic")
    assert difference.max() <= 1.15


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_half_precision_as_on_cuda_costs_a_quarter_of_a_level(interpolation):
    exact, half = compared_to_pillow(96, interpolation), compared_to_pillow(96, interpolation, torch.float16)
    assert half.max() <= exact.max() + 0.25
    assert half.mean() <= exact.mean() + 0.03


def test_flips_are_exact():
    images = photos()[:4]
    pixels, sizes = batch(images)
    boxes = torch.tensor([random_box(image, np.random.default_rng(0)) for image in images])
    straight = crop_of(to_canvas(pixels), sizes, boxes, torch.zeros(4, 2, dtype=torch.bool), 48, "bicubic")
    mirrored = torch.tensor([[False, False], [False, True], [True, False], [True, True]])
    flipped = crop_of(to_canvas(pixels), sizes, boxes, mirrored, 48, "bicubic")
    expected = torch.stack([straight[0], straight[1].flip(2), straight[2].flip(1), straight[3].flip(1, 2)])
    assert torch.equal(flipped, expected)


def test_a_border_is_black_and_fades_into_the_image_as_in_pillow():
    images = [photo_like(40, 60, 1), photo_like(64, 48, 2)]
    boxes = [[-10, -15, 60, 90], [-16, 20, 60, 40]]
    pixels, sizes = batch(images)
    ours = crop_of(to_canvas(pixels), sizes, torch.tensor(boxes), torch.zeros(2, 2, dtype=torch.bool), 32, "bilinear", padding=0.25)
    theirs = [pillow_crop(image, box, 32, Image.Resampling.BILINEAR) for image, box in zip(images, boxes, strict=True)]
    assert (ours - torch.stack(theirs)).abs().max() <= 1.001
    assert ours[0, :, :4].max() == 0


def test_a_view_of_the_whole_image_is_pillows_resized_image_normalised():
    images = [photo_like(50, 50, seed) for seed in range(3)]
    (view,) = Renderer([View(32, **PLAIN)], seed=0)(*batch(images), torch.arange(3), epoch=0)
    theirs = [pillow_crop(image, [0, 0, 50, 50], 32, Image.Resampling.BILINEAR) for image in images]
    assert view.dtype == torch.float32 and view.is_contiguous()
    assert (levels(view) - torch.stack(theirs)).abs().max() <= 1.001


# Colours and blur against plain references


def reference_jitter(image: np.ndarray, amounts: dict[str, float], order: tuple[str, ...]) -> np.ndarray:
    """float64 (h, w, 3), 0..1, written for one image and one px at a time."""
    image = image.copy()
    rows = [(row, column) for row in range(image.shape[0]) for column in range(image.shape[1])]
    luma = np.array([0.299, 0.587, 0.114])
    for name in order:
        amount = amounts[name]
        mean = (image @ luma).mean()
        for place in rows:
            if name == "hue":
                hue, saturation, value = colorsys.rgb_to_hsv(*image[place])
                image[place] = colorsys.hsv_to_rgb((hue + amount) % 1, saturation, value)
            else:
                target = {"brightness": 0.0, "contrast": mean, "saturation": image[place] @ luma}[name]
                image[place] = amount * image[place] + (1 - amount) * target
        image = image.clip(0, 1)
    return image


@pytest.mark.parametrize("names", [("brightness", "contrast", "saturation", "hue"), ("saturation", "hue"), ("brightness", "contrast")])
def test_jitter_is_the_reference_in_every_order(names):
    orders = list(itertools.permutations(range(len(names))))
    count = len(orders)
    images = random_images(count, 6)
    images[:, :, 0] = images[:, :1, 0]  # a row without colour
    images[:, :, 1, :3], images[:, 0, 1, 3:] = 0, 255  # black, and red at its most
    draw = np.random.default_rng(5)
    amounts = {name: draw.uniform(-0.5, 0.5, count) if name == "hue" else draw.uniform(0.2, 1.8, count) for name in names}
    columns = torch.stack([torch.tensor(value, dtype=torch.float32) for value in amounts.values()], dim=1)
    ours = jitter(images.clone(), columns, torch.tensor(orders), names)
    for number, order in enumerate(orders):
        image = images[number].permute(1, 2, 0).double().numpy() / 255
        expected = reference_jitter(image, {name: value[number] for name, value in amounts.items()}, [names[place] for place in order])
        assert np.abs(ours[number].permute(1, 2, 0).numpy() - expected * 255).max() < 0.05


def test_jitter_that_changes_nothing():
    images = random_images(4, 8)
    order = torch.rand(4, 4).argsort(dim=1)
    unchanged = jitter(images.clone(), torch.tensor([1.0, 1.0, 1.0, 0.0]).expand(4, 4), order)
    assert (unchanged - images).abs().max() < 1e-3


def test_grayscale_and_solarize_touch_the_chosen_images_only():
    images, chosen = random_images(2, 8), torch.tensor([True, False])
    grey = 0.299 * images[0, 0] + 0.587 * images[0, 1] + 0.114 * images[0, 2]
    ours = grayscale(images.clone(), chosen)
    torch.testing.assert_close(ours[0], grey.expand(3, 8, 8))
    assert torch.equal(ours[1], images[1])
    images[0, :, 0, 0], images[0, :, 0, 1] = 128, 127
    ours = solarize(images.clone(), chosen)
    assert torch.equal(ours[0], torch.where(images[0] >= 128, 255 - images[0], images[0]))
    assert ours[0, 0, 0, :2].tolist() == [127, 127]
    assert torch.equal(ours[1], images[1])


def test_blur_is_the_convolution_with_a_gaussian_renormalised_at_the_border():
    images, sigmas = random_images(3, 12), torch.tensor([0.4, 2.0, 0.0])
    ours = blur(images, sigmas)
    assert torch.equal(ours[2], images[2])
    places = np.arange(12)
    for image, sigma, blurred in zip(images[:2].double().numpy(), sigmas[:2].double().numpy(), ours[:2].numpy(), strict=True):
        for row, column in itertools.product(places, places):
            weights = np.exp(-((places[:, None] - row) ** 2 + (places - column) ** 2) / (2 * sigma**2))
            expected = (image * weights).sum(axis=(1, 2)) / weights.sum()
            assert np.abs(blurred[:, row, column] - expected).max() < 1e-3


def test_blur_is_near_pillows():
    image = photo_like(96, 96, 3)
    for sigma in (0.5, 1.0, 2.0):
        ours = blur(torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float(), torch.tensor([sigma]))[0].permute(1, 2, 0)
        theirs = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma)))
        assert np.abs(ours.numpy() - theirs)[8:-8, 8:-8].mean() < 0.6 + 0.4 * (sigma < 1)  # Pillow's boxes are coarse for a small sigma


# The random numbers


def numbers_of(samples: torch.Tensor, columns: int, *key: int) -> torch.Tensor:
    return uniform(samples, columns, torch.tensor(hash_words(*key)))


def test_uniform_depends_on_key_sample_and_column_only():
    samples = torch.tensor([5, 0, 2**31 + 7, 5 + 2**32])
    numbers = numbers_of(samples, 12, 1, 2)
    assert numbers.dtype == torch.float32 and numbers.shape == (4, 12)
    assert torch.equal(numbers_of(samples.flip(0), 12, 1, 2), numbers.flip(0))
    assert torch.equal(numbers_of(samples[1:2], 3, 1, 2), numbers[1:2, :3])
    assert numbers[0].ne(numbers[3]).all()
    for key in ((1, 3), (2, 1), (12,), (1, 2, 0), (-1, 2), (1, 2 + 2**64), (1, 2 + 2**32)):
        assert numbers_of(samples, 12, *key).ne(numbers).sum() >= 46
    # A run that goes on on another machine must meet the same numbers.
    assert (numbers_of(torch.tensor([3]), 2, 7, 10**30)[0] * 2**24).tolist() == [11363492, 15348230]


def test_uniform_is_uniform_and_independent():
    count = 4096
    tables = [numbers_of(torch.arange(count) + first, 16, key).double() for first, key in ((0, 0), (0, 1), (10**6, 0), (0, 2**40))]
    numbers = torch.cat(tables, dim=1)  # (4096, 64)
    assert numbers.min() >= 0 and numbers.max() < 1
    # Chi-square of 64 bins in each of the 64 columns: 63 expected, a standard deviation of 11.2; then of all columns together.
    counts = torch.stack([torch.histc(column, 64, 0, 1) for column in numbers.T])
    chi_square = ((counts - count / 64) ** 2 / (count / 64)).sum(dim=1)
    assert chi_square.min() > 20 and chi_square.max() < 120
    assert abs(chi_square.mean() - 63) < 6
    # Columns and keys, then neighbouring samples, then neighbouring columns of one sample: correlations are about 1 / 64 or less.
    correlation = torch.corrcoef(numbers.T) - torch.eye(64)
    assert correlation.abs().max() < 0.08
    assert abs(torch.corrcoef(torch.stack([numbers[1:].flatten(), numbers[:-1].flatten()]))[0, 1]) < 0.01
    # Pairs of columns fill the square evenly; so do the lowest bits used.
    pairs = (numbers[:, 0::2] * 8).long() * 8 + (numbers[:, 1::2] * 8).long()
    counts = torch.bincount(pairs.flatten(), minlength=64).double()
    expected = pairs.numel() / 64
    assert ((counts - expected) ** 2 / expected).sum() < 120
    low = (numbers * 2**24).long() % 64
    counts = torch.bincount(low.flatten(), minlength=64).double()
    expected = low.numel() / 64
    assert ((counts - expected) ** 2 / expected).sum() < 120


def test_uniform_changes_half_of_its_bits_with_any_bit_of_the_sample():
    samples = torch.arange(2000) * 977
    words = (numbers_of(samples, 4, 3) * 2**24).long()
    for bit in (0, 1, 7, 20, 31, 40):
        changed = words ^ (numbers_of(samples ^ (1 << bit), 4, 3) * 2**24).long()
        shares = torch.stack([(changed >> place & 1).double().mean() for place in range(24)])
        assert (shares - 0.5).abs().max() < 0.03


def boxes_of(sizes: torch.Tensor, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), padding=0.0, seed=0) -> torch.Tensor:
    numbers = numbers_of(torch.arange(len(sizes)), 2 * TRIES + 2, seed)
    areas, ratios, corners = numbers.split([TRIES, TRIES, 2], dim=1)
    low, high = map(math.log, ratio)
    areas, log_ratios = scale[0] + areas * (scale[1] - scale[0]), low + ratios * (high - low)
    return draw_boxes(sizes, areas, log_ratios, corners, torch.tensor(ratio), torch.tensor([padding]) if padding else None)


def test_boxes_have_the_right_areas_ratios_and_places():
    sizes = torch.tensor([[400, 400]]).repeat(6000, 1)
    top, left, height, width = boxes_of(sizes, scale=(0.1, 0.5)).double().unbind(1)
    assert (top >= 0).all() and (left >= 0).all() and (top + height <= 400).all() and (left + width <= 400).all()
    area = ((height * width / 400**2).sort().values - 0.1) / 0.4
    even = torch.linspace(0, 1, 6000, dtype=torch.float64)
    assert (area - even).abs().max() < 0.025  # Kolmogorov-Smirnov
    ratio = ((width / height).log().sort().values / math.log(4 / 3) + 1) / 2
    assert (ratio - even).abs().max() < 0.025
    slim = boxes_of(sizes[:50], scale=(0.1, 0.2), ratio=(2.0, 2.0))
    assert (slim[:, 3] - 2 * slim[:, 2]).abs().max() <= 2
    places = [(top + 0.5) / (401 - height), (left + 0.5) / (401 - width)]
    for place in places:
        assert (place.sort().values - even).abs().max() < 0.03
    assert abs(torch.corrcoef(torch.stack(places))[0, 1]) < 0.05


def test_boxes_that_fit_are_as_likely_as_with_a_loop_of_tries():
    draw = np.random.default_rng(0)
    found = []
    for _ in range(4000):
        for _ in range(TRIES):
            area, ratio = 100 * 150 * draw.uniform(0.3, 1), math.exp(draw.uniform(math.log(0.75), math.log(4 / 3)))
            width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if width <= 150 and height <= 100:
                found.append(width * height)
                break
        else:
            found.append(round(100 * 4 / 3) * 100)
    boxes = boxes_of(torch.tensor([[100, 150]]).repeat(4000, 1), scale=(0.3, 1.0))
    ours = np.sort((boxes[:, 2] * boxes[:, 3]).numpy())
    assert np.abs(np.searchsorted(np.sort(found), ours) / 4000 - np.arange(4000) / 4000).max() < 0.05


@pytest.mark.parametrize(
    "size, scale, padding, expected",
    [
        ((300, 1000), (0.99, 1.0), 0.0, [0, 300, 300, 400]),
        ((1000, 300), (0.99, 1.0), 0.0, [300, 0, 400, 300]),
        ((300, 300), (2.0, 2.0), 0.0, [0, 0, 300, 300]),
        ((40, 80), (100.0, 100.0), 0.25, [-10, 0, 60, 80]),
        ((1, 2000), (0.08, 1.0), 0.0, [0, 999, 1, 1]),
        ((2000, 1), (0.08, 1.0), 0.0, [999, 0, 1, 1]),
        ((1, 1), (0.08, 0.1), 0.0, [0, 0, 1, 1]),
    ],
)
def test_where_no_try_fits_the_box_is_central(size, scale, padding, expected):
    assert boxes_of(torch.tensor([size]), scale, padding=padding)[0].tolist() == expected


@pytest.mark.parametrize("ratio", [(20.0, 30.0), (1 / 30, 1 / 20), (4.0, 5.0), (1 / 5, 1 / 4)])
@pytest.mark.parametrize("size", [(2, 30), (30, 2), (1, 9), (9, 1), (3, 3), (1, 1)])
def test_a_box_of_a_tiny_image_is_never_empty(size, ratio):
    top, left, height, width = boxes_of(torch.tensor([size]).repeat(200, 1), (0.01, 1.0), ratio).unbind(1)
    assert (height >= 1).all() and (width >= 1).all()
    assert (top >= 0).all() and (top + height <= size[0]).all() and (left >= 0).all() and (left + width <= size[1]).all()


def test_a_border_lets_boxes_shift_and_zoom_out():
    sizes = torch.tensor([[32, 32]]).repeat(4000, 1)
    boxes = boxes_of(sizes, (1.0, 1.0), (1.0, 1.0), padding=0.125)  # the usual crop of 32 px from a border of 4 px
    assert (boxes[:, 2:] == 32).all()
    assert torch.bincount(boxes[:, 0] + 4).tolist() == pytest.approx([4000 / 9] * 9, rel=0.25)
    assert torch.bincount(boxes[:, 1] + 4).tolist() == pytest.approx([4000 / 9] * 9, rel=0.25)
    wide = boxes_of(sizes, (1.2, 1.5), (1.0, 1.0), padding=0.125)
    assert (wide[:, 2] > 32).all() and (wide[:, :2] >= -4).all() and (wide[:, :2] + wide[:, 2:] <= 36).all()


# The renderer


def test_a_sample_meets_the_same_views_in_any_batch_and_on_any_canvas():
    images = [photo_like(30 + seed, 40 - seed, seed) for seed in range(6)]
    samples = torch.tensor([3, 100, 7, 2**40, 0, 12])
    renderer = Renderer([FULL, View(16, count=2)], seed=1)
    together = renderer(*batch(images), samples, epoch=5)
    assert [tuple(view.shape) for view in together] == [(6, 3, 24, 24), (6, 3, 16, 16), (6, 3, 16, 16)]
    chosen = [4, 1]
    # Another canvas, other noise around the images, another batch, another renderer.
    pixels, sizes = batch([images[place] for place in chosen], seed=9)
    larger = torch.randint(0, 256, (2, 3, 70, 90), dtype=torch.uint8)
    larger[:, :, : pixels.shape[2], : pixels.shape[3]] = pixels
    apart = Renderer([FULL, View(16, count=2)], seed=1)(larger, sizes, samples[chosen], epoch=5)
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one[chosen], other, atol=1e-4, rtol=0)


def test_many_images_are_rendered_as_few_are():
    pixels = torch.randint(0, 256, (300, 3, 8, 8), dtype=torch.uint8)
    sizes, samples = torch.full((300, 2), 8), torch.arange(300)
    renderer = Renderer([View(8), FULL], seed=0)
    for whole, part in zip(renderer(pixels, sizes, samples, 0), renderer(pixels[250:], sizes[250:], samples[250:], 0), strict=True):
        torch.testing.assert_close(whole[250:], part, atol=1e-4, rtol=0)


def test_seed_epoch_sample_and_view_each_change_the_view():
    pixels, sizes = batch([photo_like(40, 40, 0)])
    view, other = Renderer([View(16, count=2)], seed=0)(pixels, sizes, torch.tensor([0]), epoch=0)
    found = [view, other]
    for seed, sample, epoch in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
        found += Renderer([View(16)], seed)(pixels, sizes, torch.tensor([sample]), epoch)
    for one, another in itertools.combinations(found, 2):
        assert (one - another).abs().max() > 0.1
    assert torch.equal(Renderer([View(16)], seed=0)(pixels, sizes, torch.tensor([0]), epoch=0)[0], view)


def rendered(view: View, image: np.ndarray, count: int = 3000) -> torch.Tensor:
    """(count, 3, size, size), 0..255: the view of one image as so many samples."""
    pixels, sizes = batch([image])
    (result,) = Renderer([view], seed=3)(pixels.expand(count, -1, -1, -1), sizes.expand(count, -1), torch.arange(count), epoch=0)
    return levels(result)


def test_probabilities_hold():
    image = np.zeros((2, 2, 3), np.uint8)
    image[0, 0], image[1, 1] = (200, 40, 90), (10, 60, 20)
    plain = rendered(View(2, **PLAIN), image, 1)[0]
    expected = {
        "horizontal_flip": (plain.flip(2), {}), "vertical_flip": (plain.flip(1), {}), "grayscale": (None, {}), "solarize": (None, {}),
        "blur": (None, {"blur_sigma": (1.0, 1.0)}), "jitter": (None, {"brightness": 0.5}),
    }  # fmt: skip
    for field, (changed, more) in expected.items():
        views = rendered(View(2, **{**PLAIN, **more, field: 0.3}), image)
        same = (views - plain).abs().amax(dim=(1, 2, 3)) < 1e-3
        assert abs(same.double().mean() - 0.7) < 0.035, field
        if changed is not None:
            assert (views[~same] - changed).abs().max() < 1e-3


def test_jitter_draws_from_its_range():
    even = torch.linspace(0, 1, 3000)
    flat = np.full((2, 2, 3), 100, np.uint8)
    factor = rendered(View(2, **PLAIN, jitter=1.0, brightness=0.4), flat)[:, 0, 0, 0].sort().values / 100
    assert ((factor - 0.6) / 0.8 - even).abs().max() < 0.04
    factor = rendered(View(2, **PLAIN, jitter=1.0, brightness=1.5), flat)[:, 0, 0, 0].sort().values / 100
    assert (factor / 2.5 - even).abs().max() < 0.04  # not below 0
    image = np.array([[[90, 90, 90], [110, 110, 110]]] * 2, np.uint8)
    factor = ((rendered(View(2, **PLAIN, jitter=1.0, contrast=0.4), image)[:, 0, 0, 1] - 100) / 10).sort().values
    assert ((factor - 0.6) / 0.8 - even).abs().max() < 0.04
    colour = np.tile(np.array([150, 100, 100], np.uint8), (2, 2, 1))
    pixel = rendered(View(2, **PLAIN, jitter=1.0, saturation=0.4), colour)[:, :, 0, 0]
    factor = ((pixel[:, 0] - pixel[:, 1]) / 50).sort().values
    assert ((factor - 0.6) / 0.8 - even).abs().max() < 0.04
    pixels = rendered(View(2, **PLAIN, jitter=1.0, hue=0.1), colour)[:, :, 0, 0] / 255
    turns = torch.tensor([(colorsys.rgb_to_hsv(*pixel)[0] + 0.5) % 1 - 0.5 for pixel in pixels.tolist()]).sort().values
    assert ((turns + 0.1) / 0.2 - even).abs().max() < 0.04


def test_both_orders_of_two_operations_are_equally_likely():
    order = numbers_of(torch.arange(4800), 4, 0).argsort(dim=1)
    counts = torch.bincount(order @ torch.tensor([64, 16, 4, 1]))
    assert ((counts[counts > 0] - 200).abs() < 60).all() and (counts > 0).sum() == 24
    image = np.zeros((2, 2, 3), np.uint8)
    image[0, 0], image[0, 1] = 200, 50
    view, mean = View(2, **PLAIN, jitter=1.0, brightness=0.9, contrast=0.9), 62.5
    # The same numbers are drawn for the operations alone: from those views follow the factors.
    brightness = rendered(replace(view, contrast=0.0), image)[:, 0, 0, 1] / 50
    contrast = (rendered(replace(view, brightness=0.0), image)[:, 0, 0, 1] - mean) / (50 - mean)
    bright = (brightness * 200).clamp(0, 255)
    first_brighter = (contrast * bright + (1 - contrast) * (bright + brightness * 50) / 4).clamp(0, 255)
    first_contrast = ((contrast * 200 + (1 - contrast) * mean).clamp(0, 255) * brightness).clamp(0, 255)
    found = rendered(view, image)[:, 0, 0, 0]
    telling = (first_brighter - first_contrast).abs() > 0.5
    brighter = (found - first_brighter).abs()[telling] < 0.05
    contrasted = (found - first_contrast).abs()[telling] < 0.05
    assert telling.sum() > 500 and (brighter ^ contrasted).all()
    assert abs(brighter.double().mean() - 0.5) < 0.07


def test_blur_draws_sigma_from_its_range():
    image = np.zeros((9, 9, 3), np.uint8)
    image[4, 4] = 255
    found = rendered(View(9, **PLAIN, blur=1.0, blur_sigma=(0.5, 2.0)), image)[:, 0, 4, 4].sort(descending=True).values
    sigmas = torch.linspace(0.5, 2.0, 3000)
    point = torch.from_numpy(image).permute(2, 0, 1).float().expand(3000, -1, -1, -1)
    shift = 0.04 * 1.5
    lowest, highest = (blur(point, sigma)[:, 0, 4, 4] for sigma in (sigmas + shift, sigmas - shift))
    assert (found >= lowest).all() and (found <= highest).all()


class Operations(TorchDispatchMode):
    """Counts what is dispatched, by name."""

    def __init__(self):
        super().__init__()
        self.counts: dict[str, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.counts[name] = self.counts.get(name, 0) + 1
        return func(*args, **(kwargs or {}))


def inputs(device: str, count: int = 4, height: int = 20, width: int = 30) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pixels, sizes and samples of black images."""
    pixels = torch.zeros(count, 3, height, width, dtype=torch.uint8, device=device)
    return pixels, torch.full((count, 2), min(height, width), device=device), torch.arange(count, device=device)


def dispatched(views: list[View], device: str = "meta") -> dict[str, int]:
    """What rendering on a GPU dispatches, from the second batch on."""
    renderer = Renderer(views, seed=0)
    renderer.render(*inputs(device), renderer.words(epoch=0))
    with Operations() as operations:
        results = renderer.render(*inputs(device), renderer.words(epoch=0))
    expected = [(4, 3, view.size, view.size) for view in views for _ in range(view.count)]
    assert [result.shape for result in results] == expected and results[0].device.type == device
    return operations.counts


def test_unused_operations_are_not_dispatched():
    plain = dispatched([View(16)])
    assert plain["bmm"] == 2
    assert not {"lerp_", "floor_", "mean", "sort"} & set(plain)
    # A probability without a strength or a strength without a probability is nothing.
    assert dispatched([View(16, jitter=0.8)]) == dispatched([View(16, brightness=0.4, hue=0.1)]) == plain
    assert dispatched([View(16, blur=0.5)])["bmm"] == 4
    assert dispatched([View(16, jitter=0.8, contrast=0.4)])["mean"] == 1
    no_hue = dispatched([View(16, **{**STRONG, "hue": 0})])
    assert no_hue["mean"] == 3 and "floor_" not in no_hue
    assert dispatched([View(16, **STRONG)])["mean"] == 6
    assert "mean" not in dispatched([View(16, jitter=0.8, brightness=0.4, saturation=0.4)])


@pytest.mark.parametrize("method, most", [(SimCLR, 340), (DINO, 570)])
def test_all_views_of_a_size_are_rendered_at_once(method, most):
    views = list(method.views(48).values())
    counts = dispatched(views)
    assert sum(counts.values()) <= most
    sizes = len({view.size for view in views})
    assert counts["bmm"] == 4 * sizes and counts["sort"] == sizes  # two axes of the crop, two of the blur
    more = dispatched([replace(view, count=view.count + 2) for view in views])
    assert more == counts | {"unbind": counts["unbind"]}


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_nothing_waits_for_the_device(interpolation):
    # Tensors on meta have no values, so whatever would read one fails; on the CPU such a read is an operation of its own.
    view = replace(FULL, size=16, interpolation=interpolation)
    for device in ("meta", "cpu"):
        assert not {"_local_scalar_dense", "nonzero", "index", "masked_select", "item"} & set(dispatched([view], device))
    pixels, sizes, samples = inputs("meta")
    assert Renderer([view], seed=0)(pixels, sizes, samples, epoch=0)[0].shape == (4, 3, 16, 16)
    assert center_crop(pixels, sizes, 8, 8, interpolation).shape == (4, 3, 8, 8)


@pytest.mark.parametrize(
    "views",
    [[*DINO.views(48).values()], [replace(FULL, solarize_first=True), View(16, padding=0.4, scale=(0.6, 1.6), interpolation="bicubic")]],
)
def test_rendering_is_one_graph_for_every_epoch(views):
    renderer = Renderer(views, seed=0)
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(renderer.render, backend=counter, fullgraph=True)  # which raises where the graph breaks
    for epoch in range(3):
        compiled(*inputs("cpu"), renderer.words(epoch))
    assert counter.frame_count == 1
    torch._dynamo.reset()


def test_large_canvases_are_taken_a_few_at_a_time_and_show_the_same(monkeypatch):
    images = [photo_like(40, 51, 0), photo_like(60, 30, 1), photo_like(20, 64, 2)]
    pixels, sizes = batch(images)
    centres = center_crop(pixels, sizes, 20, 16)
    held = []
    monkeypatch.setattr("sslzoo.views.center._BLOCK", 1)
    monkeypatch.setattr("sslzoo.views.center.to_canvas", lambda some: held.append(len(some)) or to_canvas(some))
    torch.testing.assert_close(center_crop(pixels, sizes, 20, 16), centres)
    assert held == [1] * 3


# On a CPU: images of more than 64 px one by one


@pytest.mark.parametrize("size", [32, 96, 224])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_crops_of_single_images_are_pillows(size, interpolation):
    draw, resampling = np.random.default_rng(size), getattr(Image.Resampling, interpolation.upper())
    view, differences = View(size, interpolation=interpolation), []
    for image in photos() * 3:
        box = random_box(image, draw)
        ours = crop_one(torch.from_numpy(image.copy()).permute(2, 0, 1), list(image.shape[:2]), box, [False, False], view)
        top, left, height, width = box
        theirs = Image.fromarray(image).crop((left, top, left + width, top + height)).resize((size, size), resampling, reducing_gap=None)
        differences.append((ours.permute(1, 2, 0).double() - torch.from_numpy(np.array(theirs)).double()).abs().flatten())
    difference = torch.cat(differences)
    assert difference.max() <= (1 if interpolation == "bilinear" else 2)
    assert difference.mean() < 0.006 and (difference == 0).double().mean() > 0.994


def test_borders_and_flips_of_single_images():
    image, view = photo_like(80, 120, 1), View(48)
    canvas = torch.randint(0, 256, (3, 90, 130), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    canvas[:, :80, :120] = torch.from_numpy(image.copy()).permute(2, 0, 1)
    for box in ([-20, -30, 120, 180], [-20, 40, 60, 100], [10, 100, 80, 50]):
        straight = crop_one(canvas, [80, 120], box, [False, False], view)
        assert (straight - pillow_crop(image, box, 48, Image.Resampling.BILINEAR)).abs().max() <= 1
        for flips, dims in (([True, False], (1,)), ([False, True], (2,)), ([True, True], (1, 2))):
            assert torch.equal(crop_one(canvas, [80, 120], box, flips, view), straight.flip(dims))


@pytest.mark.parametrize("solarize_first", [False, True])
def test_single_images_have_the_colours_of_a_batch(solarize_first):
    """Where the crop is the image, only colours can differ: by float32's rounding and the ends of the blur's kernel."""
    pixels, sizes = batch([photo_like(72, 72, seed) for seed in range(20)])
    view = View(72, **{**PLAIN, "horizontal_flip": 0.5}, vertical_flip=0.5, jitter=0.8, brightness=0.8, contrast=0.8, saturation=0.8,
                hue=0.2, grayscale=0.2, blur=0.5, solarize=0.3, solarize_first=solarize_first)  # fmt: skip
    renderer, samples = Renderer([view, replace(view, jitter=1.0, count=2)], seed=0), torch.arange(20) * 3
    for one, together in zip(renderer(pixels, sizes, samples, 4), renderer.render(pixels, sizes, samples, renderer.words(4)), strict=True):
        # Where a value is 128 but for rounding, one may be inverted and the other not.
        difference = (levels(one) - levels(together)).abs()
        assert difference.quantile(0.9999) < 0.05 and (difference > 0.05).flatten(1).any(dim=1).sum() <= 2


@pytest.mark.parametrize("size, sigma", [(224, 2.0), (224, 0.1), (97, 0.7), (64, 2.0), (40, 2.0), (7, 1.3), (1, 0.5)])
def test_blur_of_a_single_image_ends_at_four_sigma(size, sigma):
    images = random_images(1, size)
    assert (blur_one(images[0], sigma) - blur(images, torch.tensor([sigma]))[0]).abs().max() < 0.03


def test_images_of_all_sizes_meet_the_same_views_in_any_batch():
    images = [photo_like(*shape, 0) for shape in ((20, 30), (64, 64), (65, 20), (120, 90), (30, 150), (12, 12))]
    pixels, sizes = batch(images)
    samples, views = torch.arange(6) + 2**35, [replace(FULL, size=70, count=2, padding=0.0), replace(FULL, size=24)]
    together = Renderer(views, seed=2)(pixels, sizes, samples, epoch=3)
    for place in range(6):
        alone = Renderer(views, seed=2)(*batch(images[place : place + 1], seed=5), samples[place : place + 1], epoch=3)
        for one, other in zip(together, alone, strict=True):
            torch.testing.assert_close(one[place : place + 1], other, atol=1e-4, rtol=0)


def test_crops_of_a_run_never_change():
    """A run that goes on with a newer sslzoo must meet the same crops."""
    views = [View(32, vertical_flip=0.5, padding=0.125, scale=(0.5, 1.2)), View(16, scale=(0.05, 0.14))]
    sizes = torch.tensor([[375, 500], [32, 32], [7, 900]])
    renderer = Renderer(views, seed=5)
    found = renderer.crops(sizes, torch.tensor([0, 1, 2**33]), renderer.words(11))
    assert [crops.tolist() for crops in found] == [
        [[-29, 66, 341, 367, 0, 0], [-2, 10, 26, 25, 0, 1], [-1, 444, 9, 12, 0, 0]],
        [[265, 110, 93, 117, 0, 0], [15, 1, 11, 10, 0, 1], [0, 445, 7, 9, 0, 1]],
    ]


def test_extreme_images():
    images = [photo_like(*shape, 0) for shape in ((1, 1), (1, 2000), (2000, 1), (3, 2))]
    pixels, sizes = batch(images)
    for view in (FULL, View(16, interpolation="bicubic"), View(1)):
        (result,) = Renderer([view], seed=0)(pixels, sizes, torch.arange(4), epoch=0)
        assert result.isfinite().all()
    assert center_crop(pixels[:, :, :3, :3], sizes.clamp(max=3), 8, 8).isfinite().all()
    (point,) = Renderer([View(5)], seed=0)(pixels, sizes, torch.arange(4), epoch=0)
    assert (levels(point[0]) - pixels[0, :, :1, :1]).abs().max() < 1e-3


def test_a_constant_image_stays_constant():
    image = np.full((33, 47, 3), 77, np.uint8)
    for interpolation in ("bilinear", "bicubic"):
        assert (rendered(View(20, interpolation=interpolation, blur=0.5), image, 20) - 77).abs().max() < 1e-2


# The evaluation's view


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("resize, size", [(64, 56), (37, 37), (48, 80), (256, 224)])
def test_center_crop_is_that_of_transformers(interpolation, resize, size):
    images = photos()
    processor = BitImageProcessorPil(
        size={"shortest_edge": resize},
        crop_size={"height": size, "width": size},
        resample=getattr(Image.Resampling, interpolation.upper()),
        image_mean=IMAGENET_MEAN,
        image_std=IMAGENET_STD,
    )
    theirs = processor([Image.fromarray(image) for image in images], return_tensors="pt")["pixel_values"]
    ours = center_crop(*batch(images), resize, size, interpolation)
    difference = (levels(ours) - levels(theirs)).abs()
    assert difference.max() <= (1.01 if interpolation == "bilinear" else 2)
    assert (difference > 1.01).double().mean() <= 3e-4


def test_center_crop_without_resizing_keeps_the_pixels():
    image = photo_like(40, 51, 0)
    pixels, sizes = batch([image, photo_like(60, 60, 1)])
    for interpolation in ("bilinear", "bicubic"):
        ours = levels(center_crop(pixels[:1], sizes[:1], 40, 33, interpolation))[0]
        assert torch.equal(ours.round(), pixels[0, :, 3:36, 9:42].float())
        assert (ours - ours.round()).abs().max() < 1e-4
        black = levels(center_crop(pixels[:1], sizes[:1], 40, 45, interpolation))[0]
        assert (black[:, :3].abs().max(), black[:, -2:].abs().max()) == (pytest.approx(0, abs=1e-4), pytest.approx(0, abs=1e-4))


# What is refused


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"size": 0}, "view size 0: must be a whole number, at least 1"),
        ({"size": 32.0}, "view size 32.0:"),
        ({"size": True}, "view size True:"),
        ({"count": -1}, "view count -1:"),
        ({"scale": (0.0, 1.0)}, "view scale (0.0, 1.0): must be two numbers"),
        ({"scale": (0.5, 0.2)}, "view scale (0.5, 0.2):"),
        ({"scale": 0.5}, "view scale 0.5:"),
        ({"scale": (0.1, 0.2, 0.3)}, "view scale (0.1, 0.2, 0.3):"),
        ({"ratio": ("a", 1)}, "view ratio ('a', 1):"),
        ({"blur_sigma": (0, 2)}, "view blur_sigma (0, 2):"),
        ({"jitter": 1.1}, "view jitter 1.1: must be a number from 0 to 1"),
        ({"horizontal_flip": -0.1}, "view horizontal_flip -0.1:"),
        ({"grayscale": True}, "view grayscale True:"),
        ({"blur": "0.5"}, "view blur '0.5':"),
        ({"solarize": math.nan}, "view solarize nan:"),
        ({"padding": 1.5}, "view padding 1.5:"),
        ({"brightness": -1}, "view brightness -1: must be a number, at least 0"),
        ({"saturation": math.inf}, "view saturation inf:"),
        ({"hue": 0.6}, "view hue 0.6: must be a number from 0 to 0.5"),
        ({"interpolation": "bicubik"}, "unknown view interpolation 'bicubik': did you mean 'bicubic'?"),
        ({"solarize_first": 1}, "view solarize_first 1: must be true or false"),
        ({"interpolation": None}, "unknown view interpolation 'None'"),
    ],
)
def test_views_that_cannot_be_are_refused(fields, said):
    with pytest.raises(InputError) as caught:
        View(**{"size": 32, **fields})
    assert str(caught.value).startswith(said) and "\n" not in str(caught.value)


def test_crops_tell_where_each_view_was_cut():
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (64, 3, 20, 24), dtype=torch.uint8, generator=random)
    sizes, samples = torch.tensor([[20, 24]]).repeat(64, 1), torch.arange(64) + 7
    renderer = Renderer([View(8, vertical_flip=0.5, count=2), View(6)], seed=3)
    views, places = renderer(pixels, sizes, samples, 2), renderer.crops(sizes, samples, renderer.words(2))
    assert [len(place) for place in places] == [64, 64, 64] and not torch.equal(places[0], places[1])
    for view, place in zip(views, places, strict=True):
        again = crop_of(to_canvas(pixels), sizes, place[:, :4], place[:, 4:].bool(), view.shape[-1], "bilinear", 0.0)
        assert torch.allclose(normalize(again.float()), view, atol=1e-5)
        assert 0 < place[:, 5].sum() < 64


@pytest.mark.parametrize("first", [False, True])
def test_solarize_comes_behind_the_blur_unless_it_shall_come_first(first):
    pixels, sizes, samples = random_pixels(8), torch.full((8, 2), 12), torch.arange(8)
    view = View(12, scale=(1, 1), ratio=(1, 1), horizontal_flip=0.0, blur=1.0, blur_sigma=(1.0, 1.0), solarize=1.0, solarize_first=first)
    (result,) = Renderer([view], seed=0)(pixels, sizes, samples, 0)
    images, every = pixels.float(), torch.ones(8, dtype=torch.bool)
    blurred_then_inverted = normalize(solarize(blur(images.clone(), torch.ones(8)), every))
    inverted_then_blurred = normalize(blur(solarize(images.clone(), every), torch.ones(8)))
    expected, other = (inverted_then_blurred, blurred_then_inverted) if first else (blurred_then_inverted, inverted_then_blurred)
    assert torch.allclose(result, expected, atol=1e-4) and not torch.allclose(result, other, atol=0.1)


def random_pixels(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_a_count_of_0_leaves_a_view_out():
    pixels, sizes, samples = torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.full((2, 2), 8), torch.arange(2)
    views = Renderer([View(8), View(4, count=0), View(6)], seed=0)(pixels, sizes, samples, 0)
    assert [view.shape[-1] for view in views] == [8, 6]
    with pytest.raises(InputError, match="no views"):
        Renderer([View(8, count=0)], seed=0)


def test_lists_as_in_a_recipe_become_pairs():
    view = View(32, scale=[0.2, 1], ratio=[1, 1], blur_sigma=[0.5, 1])
    assert view == View(32, scale=(0.2, 1.0), ratio=(1.0, 1.0), blur_sigma=(0.5, 1.0)) and hash(view)


def test_other_refusals():
    with pytest.raises(InputError, match="no views"):
        Renderer([], seed=0)
    with pytest.raises(InputError, match="did you mean 'bilinear'"):
        center_crop(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), torch.full((1, 2), 2), 2, 2, "bilinar")
