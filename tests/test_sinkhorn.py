"""Sinkhorn's assignments against the paper's sums in plain numbers; all devices' sums are tested with the methods."""

import math

import pytest
import torch

from sslzoo.parts.sinkhorn import sinkhorn


def scores(count=6, prototypes=4, seed=0):
    return torch.rand(count, prototypes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


def plain(values, temperature, iterations):
    """Exponentials with the sum 1; then in turn each prototype's shares sum to 1 / prototypes, and each image's to 1 / images."""
    count, prototypes = values.shape
    table = [[math.exp(values[i, k] / temperature) for k in range(prototypes)] for i in range(count)]
    total = sum(map(sum, table))
    table = [[value / total for value in row] for row in table]
    for _ in range(iterations):
        sums = [sum(table[i][k] for i in range(count)) for k in range(prototypes)]
        table = [[table[i][k] / sums[k] / prototypes for k in range(prototypes)] for i in range(count)]
        table = [[value / sum(row) / count for value in row] for row in table]
    return torch.tensor(table) * count


@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_equals_the_plain_formulation(temperature, iterations):
    found = sinkhorn(scores(), temperature, iterations)
    torch.testing.assert_close(found, plain(scores(), temperature, iterations).float(), rtol=1e-4, atol=1e-6)


def test_rows_sum_to_one_and_prototypes_are_used_equally():
    found = sinkhorn(scores(12, 4), 0.1, 100)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(12))
    torch.testing.assert_close(found.sum(dim=0), torch.full((4,), 3.0), rtol=1e-4, atol=0)
    uneven = scores(12, 4)
    uneven[:, 0] += 5  # all images prefer this prototype
    torch.testing.assert_close(sinkhorn(uneven, 0.1, 3), sinkhorn(scores(12, 4), 0.1, 3), rtol=1e-3, atol=1e-6)


def test_high_logits_get_high_probabilities():
    found = sinkhorn(torch.eye(4), 0.05, 3)
    torch.testing.assert_close(found, torch.eye(4), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_is_finite_float32_without_gradient(dtype):
    values = (100 * scores()).to(dtype)
    values[:, 2] = -60000.0 if dtype == torch.float16 else -1e30  # a prototype that is far from everything
    found = sinkhorn(values.requires_grad_(), 0.05, 3)
    assert found.dtype == torch.float32 and not found.requires_grad
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found.sum(dim=1), torch.ones(6))
