"""Data sets by Hub id or local path as batches of uint8 images on the device."""

from .chosen import Chosen, labelled, without_broken
from .enough import Enough
from .images import Batch, ImageSet
from .load import load_images
from .names import EMBEDDED, hub_id, source_name

__all__ = [
    "EMBEDDED", "Batch", "Chosen", "Enough", "ImageSet", "hub_id", "labelled", "load_images", "source_name", "without_broken",
]  # fmt: skip
