"""Arithmetic that needs more precision than autocast, or float32, gives."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def full_precision(device: torch.device) -> AbstractContextManager:
    """Inside, matrix products of float32 tensors are computed in float32 even under autocast."""
    # Autocast does not support the `meta` device, on which nothing is computed.
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def in_float64(values: Tensor) -> Tensor:
    """The values in float64: on their device, or on the CPU where that has none (Apple's, "mps")."""
    return (values.cpu() if values.device.type == "mps" else values).double()
