"""The usage entropy of prototypes."""

import math

import pytest
import torch

from sslzoo.parts.usage import usage_entropy


@pytest.mark.parametrize(
    ("assignments", "expected"),
    [
        (torch.eye(4), 1.0),
        (torch.eye(4)[[2, 2, 2]], 0.0),
        (torch.eye(4)[[0, 1]], math.log(2) / math.log(4)),
        (torch.full((3, 5), 0.2), 1.0),
        (torch.tensor([[0.5, 0.5, 0.0]]), math.log(2) / math.log(3)),
    ],
)
def test_usage_is_the_entropy_of_the_mean_as_a_share_of_the_largest(assignments, expected):
    assert usage_entropy(assignments).item() == pytest.approx(expected, abs=1e-6)


def test_usage_has_no_gradient():
    assert not usage_entropy(torch.rand(3, 4, requires_grad=True).softmax(dim=1)).requires_grad
