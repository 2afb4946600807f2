"""How the pixels of a data set are kept: the number of channels, and 8 or 16 bits of each."""

from typing import NamedTuple

import numpy as np
import torch


class UnfitImage(Exception):
    """This image is sound, but its channels or its type are not those of the data set; the message continues "the image x.tif"."""


class PixelFormat(NamedTuple):
    """channels: of each image. dtype: of the values, uint8 or uint16, whose whole range stands for 0 to 1."""

    channels: int = 3
    dtype: np.dtype = np.dtype(np.uint8)

    @property
    def tensor_dtype(self) -> torch.dtype:
        return torch.uint8 if self.dtype == np.uint8 else torch.uint16

    @property
    def bytes(self) -> int:
        """Of a px."""
        return self.channels * self.dtype.itemsize

    def fit(self, image: np.ndarray) -> np.ndarray:
        """The image, uint8 or uint16 (height, width, channels), as `dtype`, without loss. Raises `UnfitImage` for uint16 as uint8."""
        if image.dtype == self.dtype:
            return image
        if self.dtype == np.uint8:
            raise UnfitImage("has 16 bits a channel, while those looked at first have 8: store all images with 16")
        return image.astype(np.uint16) * 257


RGB8 = PixelFormat()
