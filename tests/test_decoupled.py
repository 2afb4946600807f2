"""DCL's positives and negatives, by hand."""

import math

import pytest
import torch

from sslzoo.parts.decoupled import decoupled


def test_values_by_hand():
    """Each row has a positive at cosine 1 and, of the other image, two negatives at 0."""
    cosines, negatives = decoupled(torch.eye(2), torch.eye(2), 0.5)
    assert cosines.tolist() == [1, 1, 1, 1] and negatives.tolist() == pytest.approx([math.log(2)] * 4)


def test_positive_is_not_among_the_negatives():
    """The log-sum-exp of the negatives does not depend on the positive."""
    first = torch.eye(3, 6)
    near, far = first.clone(), first.clone()
    far[0] = torch.eye(6)[5]
    # Row 0 itself is a negative of others, but at a right angle to them either way.
    assert torch.equal(decoupled(first, near, 0.1)[1], decoupled(first, far, 0.1)[1])
    assert decoupled(first, far, 0.1)[0].tolist() == [0, 1, 1, 0, 1, 1]


def test_log_sum_exp_is_over_both_views():
    first, second = (torch.randn(3, 4, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    temperature = 0.3
    units = [rows / rows.norm(dim=1, keepdim=True) for rows in (first, second)]
    row = units[1][2]
    expected = sum(math.exp(float(row @ rows[other]) / temperature) for rows in units for other in (0, 1))
    assert decoupled(first, second, temperature)[1][3 + 2].item() == pytest.approx(math.log(expected), rel=1e-5)


def test_is_invariant_to_the_length_of_rows():
    first, second = (torch.randn(4, 5, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    scaled = decoupled(first * torch.tensor([[0.1], [1], [7], [300]]), second * 5, 0.2)
    torch.testing.assert_close(scaled, decoupled(first, second, 0.2))
