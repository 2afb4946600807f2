"""Views of images: what they are, and their rendering on the device, a batch at a time."""

from .center import center_crop
from .color import IMAGENET_MEAN, IMAGENET_STD
from .random import uniform
from .render import Renderer
from .view import View

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Renderer", "View", "center_crop", "uniform"]
