"""Data sets by Hub id or local path as batches of uint8 images on the device."""

from .images import Batch, ImageSet
from .load import load_images

__all__ = ["Batch", "ImageSet", "load_images"]
