"""Squared cross-correlations in the cheap form against the naive one, in float64 and with gradients."""

import pytest
import torch

from sslzoo.parts.gram import off_diagonal_squares
from sslzoo.parts.variance_covariance import vicreg_terms


def rows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64, requires_grad=True)


def naive(first, second):
    product = first.mT @ second
    return product[~torch.eye(len(product), dtype=torch.bool)].square().sum()


@pytest.mark.parametrize(("count", "width"), [(3, 20), (20, 3), (7, 7), (2, 1), (1, 4)])
class TestOffDiagonalSquares:
    def test_equals_the_naive_sum_with_its_gradients(self, count, width):
        first, second = rows(count, width), rows(count, width, seed=1)
        ours, expected = off_diagonal_squares(first, second), naive(first, second)
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
        for found, gradient in zip(torch.autograd.grad(ours, (first, second)), torch.autograd.grad(expected, (first, second)), strict=True):
            torch.testing.assert_close(found, gradient, rtol=1e-10, atol=1e-10)

    def test_of_a_matrix_with_itself(self, count, width):
        own = rows(count, width)
        ours, expected = off_diagonal_squares(own, own), naive(own, own)
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(torch.autograd.grad(ours, own), torch.autograd.grad(expected, own), rtol=1e-10, atol=1e-10)

    def test_leading_dimensions_are_independent(self, count, width):
        first, second = rows(5, count, width), rows(5, count, width, seed=1)
        each = torch.stack([naive(one, other) for one, other in zip(first, second, strict=True)])
        torch.testing.assert_close(off_diagonal_squares(first, second), each, rtol=1e-12, atol=1e-12)


def test_no_matrix_of_width_by_width_is_made():
    """With 8192 outputs that matrix would take 268 MB."""
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, kinds, arguments=(), keywords=None):
            nonlocal largest
            out = function(*arguments, **(keywords or {}))
            largest = max(largest, out.numel() if isinstance(out, torch.Tensor) else 0)
            return out

    first, second = rows(4, 100), rows(4, 100, seed=1)
    with Watch():
        off_diagonal_squares(first, second).backward()
    assert largest <= 4 * 100


def test_products_are_float32_under_autocast():
    first, second = rows(4, 100).float(), rows(4, 100, seed=1).float()
    exact = off_diagonal_squares(first, second)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(off_diagonal_squares(first, second), exact)


class TestVICRegTerms:
    def test_equals_the_values_by_hand(self):
        """Deviations sqrt(0.5) and sqrt(2), covariance -1 in one view; the other is constant."""
        first = torch.tensor([[0.0, 2.0], [1.0, 0.0]])
        invariance, variance, covariance = vicreg_terms(first, torch.zeros(2, 2))
        assert invariance.item() == 5 / 4
        assert variance.item() == pytest.approx(((1 - 0.5001**0.5) / 2 + 0.99) / 2, rel=1e-5)
        assert covariance.item() == pytest.approx((1 + 1) / 2 / 2, rel=1e-5)

    def test_pairs_of_an_image_are_independent(self):
        first, second = rows(6, 3, 5).float(), rows(6, 3, 5, seed=1).float()
        each = [torch.stack(vicreg_terms(first[:, place], second[:, place])) for place in range(3)]
        torch.testing.assert_close(torch.stack(vicreg_terms(first, second)), torch.stack(each).mean(dim=0))
