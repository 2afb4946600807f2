"""The images as a classifier is trained on them, rendered on the device, a batch at a time."""

from collections.abc import Sequence

from torch import Tensor

from sslzoo.errors import InputError

from .color import IMAGENET_MEAN, IMAGENET_STD, normalize
from .erasing import RandomErasing
from .rand_augment import RandAugment
from .render import Renderer
from .view import View


class TrainingCrops:
    """One random view of each image, then RandAugment, then erasing. Random numbers are keyed by seed, epoch and sample, as a Renderer's.

    view: the crop, the flips and the colours if any; its count is 1.
    mean, std: of the channels, 0..1, with which to normalise.
    """

    def __init__(
        self, view: View, seed: int, rand_augment: RandAugment | None = None, erasing: RandomErasing | None = None,
        mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD,
    ):  # fmt: skip
        if view.count != 1:
            raise InputError(f"view count {view.count}: a classifier is trained on one view of each image, so must be 1")
        if rand_augment and len(mean) != 3:
            raise InputError(f"RandAugment changes colours: it needs images of 3 channels, not {len(mean)}; take another protocol")
        self._seed, self._rand_augment, self._erasing, self._mean, self._std = seed, rand_augment, erasing, mean, std
        if rand_augment:  # which works on grey levels
            mean, std = (0.0,) * 3, (1 / 255,) * 3
        self._renderer = Renderer([view], seed, mean=mean, std=std)

    def __call__(self, pixels: Tensor, sizes: Tensor, samples: Tensor, epoch: int) -> Tensor:
        """float32 (n, channels, size, size), normalised.

        pixels: uint8 or uint16 (n, channels, H, W), each image in the top-left corner. sizes: int64 (n, 2), heights and widths in px.
        samples: int64 (n,), the images' row numbers in the data set. With RandAugment or erasing, they are read back from the device
        once in a call.

        Call it outside of autocast, as a `Renderer`.
        """
        (images,) = self._renderer(pixels, sizes, samples, epoch)
        if self._rand_augment or self._erasing:
            samples = samples.cpu()
        if self._rand_augment:
            images = normalize(self._rand_augment(images, samples, self._seed, epoch), self._mean, self._std)
        return self._erasing(images, samples, self._seed, epoch) if self._erasing else images
