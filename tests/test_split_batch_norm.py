"""Split batch norms against one plain batch norm per group."""

import copy

import pytest
import torch
from torch import nn

from sslzoo.encoders import build_encoder, encoder_config
from sslzoo.errors import InputError
from sslzoo.parts.split_batch_norm import SplitBatchNorm, split_batch_norms


def norm(channels=3):
    torch.manual_seed(0)
    plain = nn.BatchNorm2d(channels, eps=1e-3, momentum=0.3).double()
    with torch.no_grad():
        for value in (plain.weight, plain.bias, plain.running_mean):
            value.normal_()
        plain.running_var.uniform_(0.5, 2)
    return plain


def maps(count=8, seed=0):
    return torch.randn(count, 3, 4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_groups_are_normalised_separately_and_statistics_averaged(layout):
    plain = norm()
    split, groups = SplitBatchNorm(plain, 4).double().train(), [copy.deepcopy(plain).train() for _ in range(4)]
    for step in range(3):
        pixels = maps(seed=step).to(memory_format=layout)
        found = split(pixels)
        for group, its in enumerate(groups):  # image i is in group i modulo 4
            torch.testing.assert_close(found[group::4], its(pixels[group::4]))
    torch.testing.assert_close(split.running_mean, torch.stack([its.running_mean for its in groups]).mean(dim=0))
    torch.testing.assert_close(split.running_var, torch.stack([its.running_var for its in groups]).mean(dim=0))
    assert int(split.num_batches_tracked) == 3


def test_gradients_are_those_of_the_groups():
    plain = norm()
    split, groups = SplitBatchNorm(plain, 2).double().train(), copy.deepcopy(plain).train()
    ours, theirs = maps().requires_grad_(), maps().requires_grad_()
    weights = maps(seed=9)
    (split(ours) * weights).sum().backward()
    sum((groups(theirs[group::2]) * weights[group::2]).sum() for group in range(2)).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    torch.testing.assert_close(split.weight.grad, groups.weight.grad)
    torch.testing.assert_close(split.bias.grad, groups.bias.grad)


def test_evaluates_as_a_plain_batch_norm():
    plain = norm()
    split = SplitBatchNorm(plain, 4).double()
    split.train()(maps())
    plain.load_state_dict(split.state_dict())
    assert torch.equal(split.eval()(maps(3, seed=1)), plain.eval()(maps(3, seed=1)))


def test_encoder_keeps_its_parameters_and_names():
    encoder = build_encoder(encoder_config("res6", 16))
    split = copy.deepcopy(encoder)
    split_batch_norms(split, 4)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in split.modules())
    ours, plain = split.state_dict(), encoder.state_dict()
    assert list(ours) == list(plain) and all(torch.equal(ours[key], plain[key]) for key in plain)


def test_indivisible_batches_are_refused():
    with pytest.raises(InputError, match=r"batch_norm_splits.* 6 images .* 4 groups"):
        SplitBatchNorm(norm(), 4).double().train()(maps(6))
