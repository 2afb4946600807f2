"""What the facts of all methods need."""

import pytest
import torch


@pytest.fixture(autouse=True)
def float64_stays(monkeypatch, request):
    """`.float()` in the code is there for halves. Learning is tested in float32, as it is."""
    if request.node.get_closest_marker("slow"):
        return
    to_float = torch.Tensor.float
    monkeypatch.setattr(torch.Tensor, "float", lambda tensor: tensor if tensor.dtype == torch.float64 else to_float(tensor))
