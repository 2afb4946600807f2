"""How fast views are made on one CPU thread, beside the same views made one image at a time, with Pillow and with lightly.

    python benches/views.py [2x32 2x96 2x224 2x224+6x96] [--rounds 9] [--compile]

SimCLR's two views (without blur at 32 px) and DINO's two and six, of images in memory: 32 x 32, 213 x 160 and 500 x 375 px. The row of
lightly is its own transform with the same values, where lightly and torchvision are installed. All take turns in one process, and CPU time
counts, so that what else the machine does falls on all alike: read the ratios, each maker's images/s over Pillow's of the same round.
"""

import argparse
import importlib.util
import math
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from sslzoo.methods.dino import DINO
from sslzoo.methods.simclr import SimCLR
from sslzoo.views import IMAGENET_MEAN, IMAGENET_STD, Renderer, View

_WINDOW = 0.4  # CPU seconds that one maker runs before the next one's turn
# For each row the views, the height and width of the images, and their number in a batch.
_ROWS = {
    "2x32": ([replace(SimCLR.views(32)["both"], blur=0.0)], (32, 32), 512),
    "2x96": ([*SimCLR.views(96).values()], (160, 213), 64),
    "2x224": ([*SimCLR.views(224).values()], (375, 500), 32),
    "2x224+6x96": ([*DINO.views(224).values()], (375, 500), 32),
}


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


def lightly_transform(row: str) -> Callable[[Image.Image], list[torch.Tensor]]:
    """lightly's own transform for the row, which makes what `pillow_views` makes."""
    from lightly.transforms import DINOTransform, SimCLRTransform

    if row == "2x224+6x96":
        first, _, local = DINO.views(224).values()
        return DINOTransform(global_crop_scale=first.scale, local_crop_scale=local.scale)
    (view,), _, _ = _ROWS[row]
    return SimCLRTransform(input_size=view.size, min_scale=view.scale[0], gaussian_blur=view.blur)


def measure(makers: dict[str, Callable[[int], int]], rounds: int) -> None:
    """Prints images/s of each maker, a function of a number that returns how many images it took, and the ratio to the first maker."""
    for make in makers.values():
        make(0)
    speeds = {name: [] for name in makers}
    for _ in range(rounds):
        for name, make in makers.items():
            start, images, calls = time.process_time(), 0, 0
            while (seconds := time.process_time() - start) < _WINDOW:
                calls += 1
                images += make(calls)
            speeds[name].append(images / seconds)
    median = statistics.median
    for name, found in speeds.items():
        line = f"  {name:<16} {median(found):>8.0f} images/s"
        for other in list(makers)[:-1]:
            ratios = [mine / its for mine, its in zip(found, speeds[other], strict=True)]
            line += f"   {median(ratios):>5.2f} x {other} ({min(ratios):.2f} - {max(ratios):.2f})"
        print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", default=list(_ROWS), help="which rows; all of them if none is named")
    parser.add_argument("--compile", action="store_true", help="also measure the compiled renderer, which takes a while to compile")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for row in arguments.rows:
        views, size, batch = _ROWS[row]
        coarse = torch.rand(batch, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 255
        pixels = torch.nn.functional.interpolate(coarse, size=size, mode="bilinear").to(torch.uint8)
        sizes, samples = torch.tensor(size).repeat(batch, 1), torch.arange(batch)
        images = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in pixels]
        few = images[: max(1, batch // 8)]

        def with_pillow(number: int, views: list[View] = views, images: list[Image.Image] = few) -> int:
            draw = random.Random(number)
            for image in images:
                pillow_views(image, views, draw)
            return len(images)

        makers = {"Pillow": with_pillow}
        if importlib.util.find_spec("lightly") and importlib.util.find_spec("torchvision"):
            transform = lightly_transform(row)
            makers["lightly"] = lambda number, transform=transform, images=few: len([transform(image) for image in images])
        for name, compile in {"sslzoo": False, "sslzoo compiled": True}.items():
            if not compile or arguments.compile:
                renderer = Renderer(views, seed=0, compile=compile)
                makers[name] = lambda number, make=renderer, of=(pixels, sizes, samples): len(make(*of, epoch=number)[0])
        print(row, flush=True)
        measure(makers, arguments.rounds)


if __name__ == "__main__":
    main()
