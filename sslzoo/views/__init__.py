"""Views of images: what they are, and their rendering on the device, a batch at a time."""

from .center import center_crop
from .color import IMAGENET_MEAN, IMAGENET_STD
from .erasing import RandomErasing
from .rand_augment import RandAugment
from .random import hash_words, uniform
from .render import Renderer
from .training_crops import TrainingCrops
from .view import LARGEST, View

__all__ = [
    "IMAGENET_MEAN", "IMAGENET_STD", "LARGEST", "RandAugment", "RandomErasing", "Renderer", "TrainingCrops", "View", "center_crop",
    "hash_words", "uniform",
]  # fmt: skip
