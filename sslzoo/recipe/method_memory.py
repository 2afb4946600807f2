"""Whether a method's weights fit into memory."""

from typing import Any

import torch

from sslzoo.data.memory import default_budget
from sslzoo.errors import InputError
from sslzoo.method import Method


def check_memory(method: Method, hyperparameters: dict[str, Any]) -> None:
    """Raises `InputError` for a method, which may be on the meta device, of more weights than memory is free; names the likely key."""
    needed = sum(value.numel() * value.element_size() for value in method.state_dict().values())
    free = 4 * default_budget(torch.device("cpu"))
    if needed > free:
        sizes = {key: value for key, value in hyperparameters.items() if type(value) is int}
        suspect = f"{key} is {sizes[key]}: " if (key := max(sizes, key=sizes.__getitem__, default=None)) else ""
        raise InputError(f"{suspect}the method takes {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB of memory are free")
