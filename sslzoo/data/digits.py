"""Scattered digits: 1,797 real scans of handwritten digits, each placed somewhere on a 16x16 canvas.

Source: "Optical Recognition of Handwritten Digits", E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, CC BY 4.0; the 8x8
images come with scikit-learn (`load_digits`). Upright and centred they are too easy: raw pixels find the class of 98 % of them.
Scattered it is about 66 %, an untrained network 45 %, and self-supervised training shows.
"""

import functools
import importlib.util
import math
from pathlib import Path

import numpy as np
from PIL import Image

CANVAS = 16  # px
TRAIN = 1297  # images; the other 500 are the test split


@functools.cache
def scattered_digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8 (n, 16, 16, 3), and labels, int64 (n,), of "train" (1,297) or "test" (500): the same on every machine. Made once."""
    scans, labels = _scans()
    random = np.random.RandomState(0)
    order = random.permutation(len(scans))
    # Drawn for all the digits at once, so that a digit's place does not depend on the split that is requested.
    drawn = random.uniform(size=(len(order), 4))
    chosen = slice(0, TRAIN) if split == "train" else slice(TRAIN, None)
    images = [_scatter(scans[row], *numbers) for row, numbers in zip(order[chosen], drawn[chosen], strict=True)]
    return np.repeat(np.stack(images)[..., None], 3, axis=-1), labels[order[chosen]]


def _scans() -> tuple[np.ndarray, np.ndarray]:
    """The scans in black borders of a pixel, uint8 (1797, 10, 10), and their labels, int64 (1797,)."""
    # The file alone: importing scikit-learn takes two seconds.
    (package,) = importlib.util.find_spec("sklearn").submodule_search_locations
    rows = np.loadtxt(Path(package, "datasets/data/digits.csv.gz"), delimiter=",")
    scans = np.rint(rows[:, :64].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)  # from 0 .. 16
    # With empty borders, strokes that touch a scan's edge fade out instead of ending in a hard step.
    return np.pad(scans, ((0, 0), (1, 1), (1, 1))), rows[:, 64].astype(np.int64)


def _scatter(scan: np.ndarray, scale: float, angle: float, across: float, down: float) -> np.ndarray:
    """One bordered scan on the canvas; the four numbers in 0 .. 1 say how large, how turned and where."""
    scale = 1 + 0.5 * scale
    angle = math.radians(30 * angle - 15)
    cosine, sine = math.cos(angle) / scale, math.sin(angle) / scale
    reach = 4 * scale * (abs(math.cos(angle)) + abs(math.sin(angle)))  # px from its middle to the side of its upright box
    middle_x = reach + (CANVAS - 2 * reach) * across
    middle_y = reach + (CANVAS - 2 * reach) * down
    to_scan = (cosine, sine, 5 - cosine * middle_x - sine * middle_y, -sine, cosine, 5 + sine * middle_x - cosine * middle_y)
    return np.asarray(Image.fromarray(scan).transform((CANVAS, CANVAS), Image.Transform.AFFINE, to_scan, Image.Resampling.BILINEAR))
