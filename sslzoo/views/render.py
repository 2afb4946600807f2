"""The random views of a batch, rendered on its device. On a GPU nothing waits for it: it all runs on `meta` tensors too."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sslzoo.compilation import compiled
from sslzoo.errors import InputError

from .by_image import render_by_image
from .color import IMAGENET_MEAN, IMAGENET_STD, normalization
from .crop import to_canvas
from .draws import draw, tabulate
from .joint import paint_jointly, render_jointly
from .random import hash_words
from .view import View

_SMALL = 64  # px; images no larger are cropped together, which is quicker for them on a CPU too
_BLOCK = 3 * 2**17  # values of views that a CPU renders at a time: what is computed in between stays in its caches


class Renderer:
    """Makes the views of a batch. Random numbers are keyed by seed, epoch, sample and view: no batch, device or worker changes them.

    On a CPU the crops of images of 8 bits and more than 64 px are rounded to whole grey levels, as Pillow's are.

    views: what to make of each image.
    compile: compile the colours of views that are rendered jointly, on first use and again for a batch of another size.
    mean, std: of the channels, 0..1, with which to normalise.
    """

    def __init__(
        self, views: Sequence[View], seed: int, compile: bool = False, mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ):  # fmt: skip
        self._seed = seed
        views = [view for view in views for _ in range(view.count)]
        if not views:
            raise InputError("no views: at least one is needed")
        groups: dict[tuple, list[int]] = {}
        for index, view in enumerate(views):
            groups.setdefault((view.size, view.interpolation, view.padding, view.solarize_first), []).append(index)
        # Views that are rendered together stand next to each other from here on, and are put in order at the end.
        self._indices = [index for group in groups.values() for index in group]
        self._groups = [[views[index] for index in group] for group in groups.values()]
        self._table = tabulate([views[index] for index in self._indices])
        self._padded = any(view.padding > 0 for view in views)
        self._normalization = normalization(mean, std)
        # Static shapes: what is compiled does not see the canvas, whose size changes from batch to batch in a streamed data set.
        self._paint = compiled(paint_jointly, dynamic=False) if compile else paint_jointly

    def __call__(self, pixels: Tensor, sizes: Tensor, samples: Tensor, epoch: int) -> list[Tensor]:
        """One float32 (n, channels, size, size) for each view, normalised.

        pixels: uint8 or uint16 (n, channels, H, W), each image in the top-left corner.
        sizes: int64 (n, 2), heights and widths in px; nothing else of the canvas is read.
        samples: int64 (n,), the images' row numbers in the data set.

        Call it outside of autocast, which would multiply the images in too low a precision.
        """
        render = self._render_on_cpu if pixels.device.type == "cpu" else self.render
        return render(pixels, sizes, samples, self.words(epoch))

    def words(self, epoch: int) -> Tensor:
        """The keys of the views' random numbers in an epoch, int64 (views, 3) on the CPU."""
        return torch.tensor([hash_words(self._seed, epoch, index) for index in self._indices])

    def render(self, pixels: Tensor, sizes: Tensor, samples: Tensor, words: Tensor) -> list[Tensor]:
        """What `__call__` gives on a GPU, as one graph: it branches on the shapes alone."""
        drawn = draw(self._table.to(pixels.device, non_blocking=True), words, sizes, samples, self._padded)
        canvas, constants = to_canvas(pixels), self._normalization.to(pixels.device, non_blocking=True)
        groups = zip(self._groups, drawn.split([len(views) for views in self._groups]), strict=True)
        return self._in_order([render_jointly(views, canvas, sizes, part, constants, self._paint) for views, part in groups])

    def crops(self, sizes: Tensor, samples: Tensor, words: Tensor) -> list[Tensor]:
        """Where `__call__` cuts each view, int64 (n, 6): top, left, height, width in px, and 1 where flipped vertically, horizontally."""
        drawn = draw(self._table.to(sizes.device, non_blocking=True), words, sizes, samples, self._padded)
        return self._in_order([torch.cat([drawn.boxes, drawn.mirrored.long()], dim=2).transpose(0, 1)])

    def _render_on_cpu(self, pixels: Tensor, sizes: Tensor, samples: Tensor, words: Tensor) -> list[Tensor]:
        small = sizes.amax(dim=1) <= _SMALL
        if small.any() and not small.all():
            # Each image as its own size says, so that it meets the same view in any batch and on any canvas.
            results = self._in_order(self._empty(pixels))
            for rows in (small.nonzero()[:, 0], (~small).nonzero()[:, 0]):
                rendered = self._render_on_cpu(pixels[rows], sizes[rows], samples[rows], words)
                for result, views in zip(results, rendered, strict=True):
                    result[rows] = views
            return results
        drawn = draw(self._table, words, sizes, samples, self._padded)
        results = self._empty(pixels)
        for views, part, result in zip(self._groups, drawn.split([len(views) for views in self._groups]), results, strict=True):
            block = max(1, _BLOCK // result[:, 0].numel())
            for start in range(0, len(pixels), block):
                rows = slice(start, start + block)
                if small.all():
                    canvas = to_canvas(pixels[rows, :, :_SMALL, :_SMALL])
                    result[:, rows] = render_jointly(views, canvas, sizes[rows], part.rows(rows), self._normalization, self._paint)
                else:
                    render_by_image(views, pixels[rows], sizes[rows], part.rows(rows), self._normalization, result[:, rows])
        return self._in_order(results)

    def _empty(self, pixels: Tensor) -> list[Tensor]:
        """Of each group, float32 (views, n, channels, size, size)."""
        shapes = [(len(views), *pixels.shape[:2], views[0].size, views[0].size) for views in self._groups]
        return [torch.empty(shape, device=pixels.device) for shape in shapes]

    def _in_order(self, results: list[Tensor]) -> list[Tensor]:
        """The groups' results, (views, n, ...) each, as one (n, ...) for each view."""
        found = dict(zip(self._indices, [view for result in results for view in result.unbind()], strict=True))
        return [found[index] for index in range(len(found))]
