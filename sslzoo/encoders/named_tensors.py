"""Tensors under new names: what every layout of weights is converted to."""

from typing import NamedTuple

from torch import Tensor
from transformers import PreTrainedConfig

NamedTensors = dict[str, tuple[str, Tensor]]  # new name: (name in the file, tensor)


class ConvertedTensors(NamedTuple):
    """An encoder's tensors under transformers' names."""

    config: PreTrainedConfig
    name: str  # short, such as "res50", or a description of the shape
    image_size: int  # px, of the images for evaluation
    tensors: NamedTensors  # names begin with "?" where transformers has no such tensor
    notes: list[str]  # assumptions about what the file does not say, a line each
