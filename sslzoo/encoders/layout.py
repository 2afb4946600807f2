"""What every layout of others' weights is turned into."""

from typing import NamedTuple

from torch import Tensor
from transformers import PreTrainedConfig

Named = dict[str, tuple[str, Tensor]]  # by a new name: the name in the file, and the tensor


class Converted(NamedTuple):
    """An encoder's tensors under the names of transformers."""

    config: PreTrainedConfig
    name: str  # the short one, "res50", or a description of its shape
    image_size: int  # px, of the images that it is evaluated on
    tensors: Named  # those that transformers has no place for under names that begin with "?"
    notes: list[str]  # what the file does not say and was taken to be so, a line each
