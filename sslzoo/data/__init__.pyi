from .images import Batch, ImageSet
from .load import load_images
from .names import EMBEDDED, hub_id, source_name
from .resolution import RequiredResolution
from .statistics import channel_statistics
from .subset import Subset, labelled, without_broken

__all__ = [
    "EMBEDDED", "Batch", "ImageSet", "RequiredResolution", "Subset", "channel_statistics", "hub_id", "labelled", "load_images",
    "source_name", "without_broken",
]  # fmt: skip
