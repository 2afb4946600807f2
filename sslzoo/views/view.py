"""What a view of an image is, as plain data: which part of it, how large, and what is done to its colours."""

import math
from dataclasses import dataclass

from sslzoo.errors import InputError, unknown

INTERPOLATIONS = ("bilinear", "bicubic")
LARGEST = 4096  # px
_MOST = 100  # views of one kind


@dataclass(frozen=True)
class View:
    """One kind of random view. Rendered in the order of the fields: crop, flips, colour jitter, grayscale, blur, solarize.

    size: px, the result is square.
    count: how many such views of each image; 0 leaves it out.
    scale: smallest and largest share of the image's area that the crop covers; more than 1 needs `padding`.
    ratio: smallest and largest width / height of the crop.
    padding: share of each side added as a black border on that side before the crop, so that crops may shift the image and zoom out.
    interpolation: "bilinear" or "bicubic", both antialiased.
    horizontal_flip, vertical_flip, jitter, grayscale, blur, solarize: probabilities.
    brightness, contrast, saturation: how far the jitter's factors may be from 1.
    hue: how far the jitter may turn the hue, in turns.
    blur_sigma: smallest and largest sigma of the Gaussian blur in px of the view.
    solarize_first: solarize before the blur (VICReg).

    A list given for a pair becomes a tuple. Raises `InputError` for a value that is not allowed.
    """

    size: int
    count: int = 1
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    padding: float = 0.0
    interpolation: str = "bilinear"
    horizontal_flip: float = 0.5
    vertical_flip: float = 0.0
    jitter: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    grayscale: float = 0.0
    blur: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarize: float = 0.0
    solarize_first: bool = False

    def __post_init__(self):
        for field, least, most in (("size", 1, LARGEST), ("count", 0, _MOST)):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                raise _refused(field, value, f"a whole number, at least {least} and at most {most}")
        for field in ("scale", "ratio", "blur_sigma"):
            value = getattr(self, field)
            pair = isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_number, value))
            if not pair or not 1e-6 <= value[0] <= value[1] <= 1e6:
                raise _refused(field, value, "two numbers [low, high] with 0 < low <= high (1e-06 to 1e+06)")
            object.__setattr__(self, field, tuple(value))
        for field in ("padding", "horizontal_flip", "vertical_flip", "jitter", "grayscale", "blur", "solarize"):
            self._check_range(field, 1.0, "a number from 0 to 1")
        for field in ("brightness", "contrast", "saturation"):
            self._check_range(field, 100.0, "a number, at least 0 and at most 100")
        self._check_range("hue", 0.5, "a number from 0 to 0.5")
        if not isinstance(self.solarize_first, bool):
            raise _refused("solarize_first", self.solarize_first, "true or false")
        if self.interpolation not in INTERPOLATIONS:
            raise unknown("view interpolation", self.interpolation, INTERPOLATIONS)

    def _check_range(self, field: str, highest: float, allowed: str) -> None:
        value = getattr(self, field)
        if not _is_number(value) or not 0 <= value <= highest:
            raise _refused(field, value, allowed)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf


def _refused(field: str, value: object, allowed: str) -> InputError:
    return InputError(f"view {field} {value!r}: must be {allowed}")
