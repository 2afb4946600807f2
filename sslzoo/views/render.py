"""The random views of a batch, rendered on its device. Nothing here waits for the device: it all runs on `meta` tensors too."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from sslzoo.errors import InputError

from .blur import blur
from .boxes import TRIES, draw_boxes
from .color import JITTER, grayscale, jitter, normalize, solarize
from .crop import crop, to_canvas
from .random import uniform
from .view import View

# How many random numbers each part of a view takes; new ones go last, so that the others keep theirs.
_NUMBERS = {
    "areas": TRIES, "ratios": TRIES, "corners": 2, "flips": 2, "jitter": 1, "amounts": len(JITTER), "order": len(JITTER),
    "grayscale": 1, "blur": 1, "sigma": 1, "solarize": 1,
}  # fmt: skip
_COLUMNS = sum(_NUMBERS.values())

# On a CPU as many images are rendered at a time as make so many px of the largest view. What is computed in between stays in its caches
# and in memory that the process already has: writing to new memory costs more than the arithmetic.
_BLOCK = 2**17
_MOST = 2**22  # px of canvases that are in memory as floating-point numbers at once, of which one image may have more


class Renderer:
    """Makes the views of a batch. Random numbers are keyed by seed, epoch, sample and view: no batch, device or worker changes them.

    views: what to make of each image.
    compile: compile the colours of each different view on first use, some 5 to 15 s each, and again for a batch of another size.
    """

    def __init__(self, views: Sequence[View], seed: int, compile: bool = False):
        self._seed = seed
        self._views = [view for view in views for _ in range(view.count)]
        if not self._views:
            raise InputError("no views: at least one is needed")
        self._largest = max(view.size for view in views)
        # Static shapes: what is compiled does not see the canvas, whose size changes from batch to batch in a streamed data set.
        self._paint = torch.compile(paint, dynamic=False) if compile else paint

    def __call__(self, pixels: Tensor, sizes: Tensor, samples: Tensor, epoch: int) -> list[Tensor]:
        """One float32 (n, 3, size, size) for each view, normalised with ImageNet's mean and standard deviation.

        pixels: uint8 (n, 3, H, W), each image in the top-left corner.
        sizes: int64 (n, 2), heights and widths in px; nothing else of the canvas is read.
        samples: int64 (n,), the images' row numbers in the data set.

        Call it outside of autocast, which would multiply the images in too low a precision.
        """
        numbers = [draw(samples, self._seed, epoch, index) for index in range(len(self._views))]
        results = [torch.empty(len(pixels), 3, view.size, view.size, device=pixels.device) for view in self._views]
        for some in blocks(pixels, self._largest, pixels.shape[2] * pixels.shape[3]):
            canvas = to_canvas(pixels[some])
            for view, drawn, result in zip(self._views, numbers, results, strict=True):
                its = {name: columns[some] for name, columns in drawn.items()}
                self._paint(view, cut(view, canvas, sizes[some], its), its, result[some])
        return results


    def crops(self, sizes: Tensor, samples: Tensor, epoch: int) -> list[Tensor]:
        """Where `__call__` cuts each view, int64 (n, 6): top, left, height, width in px, and 1 where flipped vertically, horizontally."""
        places = []
        for index, view in enumerate(self._views):
            boxes, mirrored = _place(view, sizes, draw(samples, self._seed, epoch, index))
            places.append(torch.cat([boxes, mirrored.long()], dim=1))
        return places


def draw(samples: Tensor, *key: int) -> dict[str, Tensor]:
    """The random numbers in [0, 1) of a view, (n, _NUMBERS[name]) for each name. samples, key: as for `uniform`."""
    return dict(zip(_NUMBERS, uniform(samples, _COLUMNS, *key).split(list(_NUMBERS.values()), dim=1), strict=True))


def blocks(rows: Tensor, size: int, canvas: int = 1) -> Iterator[slice]:
    """Which of the rows, one for each image, to take at a time on their device. size: px of the largest view. canvas: its px in all."""
    block = max(1, min(_BLOCK // size**2, _MOST // canvas) if rows.device.type == "cpu" else len(rows))
    return (slice(start, start + block) for start in range(0, len(rows), block))


def cut(view: View, canvas: Tensor, sizes: Tensor, drawn: dict[str, Tensor]) -> Tensor:
    """The view's part of each image, flipped: (n, 3, size, size), 0..255, of the canvas' type.

    canvas: as `to_canvas` gives it. sizes: int64 (n, 2). drawn: as `draw` gives them.
    """
    boxes, mirrored = _place(view, sizes, drawn)
    return crop(canvas, sizes, boxes, mirrored, view.size, view.interpolation, view.padding)


def paint(view: View, images: Tensor, drawn: dict[str, Tensor], result: Tensor) -> None:
    """Writes the images, (n, 3, size, size), 0..255, with the view's colours to `result`, float32 of the same shape, normalised."""
    result.copy_(normalize(colors(view, images, drawn)))


def colors(view: View, images: Tensor, drawn: dict[str, Tensor]) -> Tensor:
    """The images, (n, 3, size, size), 0..255, with the view's colours: float32 of the same shape and range; may work in place."""
    dtype, images = images.dtype, images.float()
    used = [name for name in JITTER if getattr(view, name) > 0] if view.jitter > 0 else []
    if used:
        columns = [JITTER.index(name) for name in used]
        chosen = drawn["jitter"][:, 0] < view.jitter
        amounts = [_amount(JITTER[column], getattr(view, JITTER[column]), drawn["amounts"][:, column], chosen) for column in columns]
        order = torch.stack([drawn["order"][:, column] for column in columns], dim=1).argsort(dim=1)
        images = jitter(images, dict(zip(used, amounts, strict=True)), order)
    if view.grayscale > 0:
        images = grayscale(images, drawn["grayscale"][:, 0] < view.grayscale)
    if view.solarize > 0 and view.solarize_first:
        images = solarize(images, drawn["solarize"][:, 0] < view.solarize)
    if view.blur > 0:
        low, high = view.blur_sigma
        sigmas = torch.where(drawn["blur"] < view.blur, low + drawn["sigma"] * (high - low), 0)[:, 0]
        images = blur(images, sigmas, dtype)
    if view.solarize > 0 and not view.solarize_first:
        images = solarize(images, drawn["solarize"][:, 0] < view.solarize)
    return images


def _place(view: View, sizes: Tensor, drawn: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Boxes int64 (n, 4) and whether they are flipped vertically and horizontally, bool (n, 2)."""
    boxes = draw_boxes(sizes, view.scale, view.ratio, view.padding, drawn["areas"], drawn["ratios"], drawn["corners"])
    return boxes, torch.stack([drawn["flips"][:, 0] < view.vertical_flip, drawn["flips"][:, 1] < view.horizontal_flip], dim=1)


def _amount(name: str, strength: float, numbers: Tensor, chosen: Tensor) -> Tensor:
    """What `jitter` shall do, (n,): drawn by the random numbers where `chosen`, else what changes nothing."""
    low, high, none = (-strength, strength, 0.0) if name == "hue" else (max(0.0, 1 - strength), 1 + strength, 1.0)
    return torch.where(chosen, low + numbers * (high - low), none)
