"""Fixtures of the facts of all methods."""

import pytest
import torch


@pytest.fixture(autouse=True)
def float64_stays(monkeypatch, request):
    """`.float()` leaves float64 alone, as it is meant for half precision. Learning (slow tests) is tested in float32."""
    if request.node.get_closest_marker("slow"):
        return
    to_float = torch.Tensor.float
    monkeypatch.setattr(torch.Tensor, "float", lambda tensor: tensor if tensor.dtype == torch.float64 else to_float(tensor))
