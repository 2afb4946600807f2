"""Arithmetic that half precision would spoil."""

from contextlib import AbstractContextManager, nullcontext

import torch


def full_precision(device: torch.device) -> AbstractContextManager:
    """Inside, matrix products of float32 tensors are computed in float32 even under autocast."""
    # Autocast knows no `meta` device, and there is nothing to compute on it.
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)
