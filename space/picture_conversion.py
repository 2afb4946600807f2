"""Turns tensors into pictures: denormalised inputs, feature maps, heat maps and thumbnails; and a picture into a tensor."""

from collections.abc import Iterator

import matplotlib
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sslzoo.evaluation import Preprocessing

_MIN_WIDTH = 128  # px; smaller maps are enlarged
_THUMBNAIL = (96, 96)  # px


def to_tensor(image: Image.Image) -> tuple[Tensor, Tensor]:
    """uint8 (1, 3, H, W), and its size, int64 (1, 2)."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    return pixels, torch.tensor([pixels.shape[-2:]])


def to_picture(values: Tensor) -> Image.Image:
    """From (h, w, 3) in 0..1."""
    return Image.fromarray((values.clamp(0, 1) * 255).round().byte().numpy())


def denormalise(pixels: Tensor, preprocessing: Preprocessing) -> Image.Image:
    """An encoder's input, (3, h, w), as a picture."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (preprocessing.mean, preprocessing.std))
    return to_picture((pixels * std + mean).permute(1, 2, 0))


def heat_map(values: Tensor, image: Image.Image) -> Image.Image:
    """A map (h, w) as colours over the image."""
    scaled = (values - values.min()) / (values.max() - values.min()).clamp(min=1e-12)
    colours = torch.from_numpy(matplotlib.colormaps["inferno"](scaled.numpy())[..., :3]).float()
    overlay = enlarge(to_picture(colours), image.size)
    return Image.blend(image.convert("L").convert("RGB").resize(overlay.size, Image.Resampling.NEAREST), overlay, 0.65)


def enlarge(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Interpolated to `size`, or to a multiple of it that is at least 128 px wide."""
    factor = max(1, -(-_MIN_WIDTH // size[0]))
    return picture.resize((size[0] * factor, size[1] * factor), Image.Resampling.BICUBIC)


def thumbnails(pixels: Tensor, sizes: Tensor) -> Iterator[Image.Image]:
    """The largest centred square of each image, at most 96 px large. pixels: uint8 (n, 3, H, W). sizes: int64 (n, 2)."""
    for image, (height, width) in zip(pixels, sizes.tolist(), strict=True):
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        picture = Image.fromarray(image[:, top : top + side, left : left + side].permute(1, 2, 0).numpy())
        picture.thumbnail(_THUMBNAIL)
        yield picture
