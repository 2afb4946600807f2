"""How fast views are made on one CPU thread, beside the same views made with Pillow one image at a time.

    python benches/views.py [--compile] [--multicrop] [--rounds 5]

Two SimCLR views at 32 px of images in memory; --multicrop: two views at 224 px and six at 96 px of images of 500 x 375 px.
All take turns in one process, so that what else the machine does falls on all alike: read the ratios.
"""

import argparse
import math
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from sslzoo.views import IMAGENET_MEAN, IMAGENET_STD, Renderer, View

_SIMCLR = [View(32, count=2, jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, grayscale=0.2)]
_GLOBAL = replace(_SIMCLR[0], size=224, count=1, scale=(0.4, 1.0), interpolation="bicubic", saturation=0.2, blur=1.0)
_DINO = [_GLOBAL, replace(_GLOBAL, blur=0.1, solarize=0.2), replace(_GLOBAL, size=96, count=6, scale=(0.05, 0.4), blur=0.5)]
_WINDOW = 0.4  # seconds that one maker runs before the next one's turn


def pillow_views(image: Image.Image, views: list[View], draw: random.Random) -> list[torch.Tensor]:
    """The image's views as float32 (3, size, size), made as data loaders do."""
    return [_pillow_view(image, view, draw) for view in views for _ in range(view.count)]


def _pillow_view(image: Image.Image, view: View, draw: random.Random) -> torch.Tensor:
    left, top, width, height = _box(image.size, view, draw)
    resampling = Image.Resampling.BILINEAR if view.interpolation == "bilinear" else Image.Resampling.BICUBIC
    image = image.crop((left, top, left + width, top + height)).resize((view.size, view.size), resampling)
    if draw.random() < view.horizontal_flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if draw.random() < view.jitter:
        changes = [
            lambda image: ImageEnhance.Brightness(image).enhance(draw.uniform(1 - view.brightness, 1 + view.brightness)),
            lambda image: ImageEnhance.Contrast(image).enhance(draw.uniform(1 - view.contrast, 1 + view.contrast)),
            lambda image: ImageEnhance.Color(image).enhance(draw.uniform(1 - view.saturation, 1 + view.saturation)),
            lambda image: _turned(image, draw.uniform(-view.hue, view.hue)),
        ]
        draw.shuffle(changes)
        for change in changes:
            image = change(image)
    if draw.random() < view.grayscale:
        image = image.convert("L").convert("RGB")
    if draw.random() < view.blur:
        image = image.filter(ImageFilter.GaussianBlur(draw.uniform(*view.blur_sigma)))
    if draw.random() < view.solarize:
        image = ImageOps.solarize(image)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).to(torch.float32, memory_format=torch.contiguous_format).div_(255)
    return pixels.sub_(torch.tensor(IMAGENET_MEAN).view(3, 1, 1)).div_(torch.tensor(IMAGENET_STD).view(3, 1, 1))


def _box(size: tuple[int, int], view: View, draw: random.Random) -> tuple[int, int, int, int]:
    for _ in range(10):
        area = size[0] * size[1] * draw.uniform(*view.scale)
        ratio = math.exp(draw.uniform(math.log(view.ratio[0]), math.log(view.ratio[1])))
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < width <= size[0] and 0 < height <= size[1]:
            return draw.randint(0, size[0] - width), draw.randint(0, size[1] - height), width, height
    side = min(size)
    return (size[0] - side) // 2, (size[1] - side) // 2, side, side


def _turned(image: Image.Image, turns: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    turned = (np.asarray(hue).astype(np.int16) + round(turns * 255)).astype(np.uint8)
    return Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert("RGB")


def measure(makers: dict[str, Callable[[int], int]], rounds: int) -> None:
    """Prints images/s of each maker, a function of a number that returns how many images it took, and the ratio to the first maker."""
    for name, make in makers.items():
        start = time.perf_counter()
        make(0)
        print(f"{name}: the first call takes {time.perf_counter() - start:.1f} s", flush=True)
    speeds = {name: [] for name in makers}
    for _ in range(rounds):
        for name, make in makers.items():
            start, images, calls = time.perf_counter(), 0, 0
            while (seconds := time.perf_counter() - start) < _WINDOW:
                calls += 1
                images += make(calls)
            speeds[name].append(images / seconds)
    first = next(iter(speeds.values()))
    for name, found in speeds.items():
        ratios = [mine / other for mine, other in zip(found, first, strict=True)]
        median = statistics.median
        print(f"{name:<16} {median(found):>8.0f} images/s  x {median(ratios):.1f} ({min(ratios):.1f} - {max(ratios):.1f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compile", action="store_true", help="also measure the compiled renderer, which takes a while to compile")
    parser.add_argument("--multicrop", action="store_true", help="2 x 224 + 6 x 96 px instead of 2 x 32 px")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    views, batch, size = (_DINO, 32, (375, 500)) if arguments.multicrop else (_SIMCLR, 512, (32, 32))
    coarse = torch.rand(batch, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 255
    pixels = torch.nn.functional.interpolate(coarse, size=size, mode="bilinear").to(torch.uint8)
    sizes, samples = torch.tensor(size).repeat(batch, 1), torch.arange(batch)
    images = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in pixels]

    def with_pillow(number: int) -> int:
        draw = random.Random(number)
        some = images[: max(1, batch // 8)]
        for image in some:
            pillow_views(image, views, draw)
        return len(some)

    def with_renderer(renderer: Renderer) -> Callable[[int], int]:
        return lambda number: len(renderer(pixels, sizes, samples, epoch=number)[0])

    makers = {"Pillow": with_pillow, "sslzoo eager": with_renderer(Renderer(views, seed=0))}
    if arguments.compile:
        makers["sslzoo compiled"] = with_renderer(Renderer(views, seed=0, compile=True))
    measure(makers, arguments.rounds)


if __name__ == "__main__":
    main()
