"""Data sets by Hub id or local path as batches of uint8 images on the device."""

from .images import Batch, ImageSet
from .load import load_images
from .names import EMBEDDED, hub_id, source_name

__all__ = ["EMBEDDED", "Batch", "ImageSet", "hub_id", "load_images", "source_name"]
