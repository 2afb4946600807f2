"""The negative cosine, by hand."""

import pytest
import torch

from sslzoo.parts.cosine import negative_cosine


def rows(seed, count=4, width=5):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_is_minus_the_mean_cosine():
    prediction = torch.tensor([[3.0, 0.0], [0.0, 2.0], [1.0, 1.0], [5.0, 0.0]])
    target = torch.tensor([[7.0, 0.0], [0.0, -1.0], [1.0, 0.0], [0.0, 0.1]])
    assert negative_cosine(prediction, target).item() == pytest.approx(-(1 - 1 + 0.5**0.5 + 0) / 4)


def test_is_invariant_to_the_length_of_rows():
    scales = torch.tensor([[0.01], [1], [7], [300]])
    torch.testing.assert_close(negative_cosine(rows(0) * scales, rows(1) * 5), negative_cosine(rows(0), rows(1)))


def test_only_the_prediction_gets_a_gradient():
    prediction, target = rows(0).requires_grad_(), rows(1).requires_grad_()
    negative_cosine(prediction, target).backward()
    assert target.grad is None
    plain = prediction.detach().clone().requires_grad_()
    total = sum(row.dot(other) / (row.dot(row).sqrt() * other.dot(other).sqrt()) for row, other in zip(plain, target.detach(), strict=True))
    (-total / 4).backward()
    torch.testing.assert_close(prediction.grad, plain.grad)


def test_rows_of_zeros_are_finite():
    prediction = rows(0).requires_grad_()
    negative_cosine(prediction, torch.zeros(4, 5)).backward()
    assert not prediction.grad.any()


def test_half_precision_is_computed_in_float32():
    loss = negative_cosine(rows(0).bfloat16(), rows(1).bfloat16())
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, negative_cosine(rows(0).bfloat16().float(), rows(1).bfloat16().float()))
    assert torch.isfinite(negative_cosine((rows(0) * 1000).half(), (rows(1) * 1000).half())), "squares pass float16's range"
