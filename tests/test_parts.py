"""The building blocks, each against its plainest formulation."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sslzoo.parts.ema import ema_update, frozen_copy, linear_momentum_schedule, momentum_schedule
from sslzoo.parts.gather import gather, rank
from sslzoo.parts.masking import gather_tokens, patchify, scatter_tokens, split_patches
from sslzoo.parts.networks import mlp
from sslzoo.parts.nt_xent import nt_xent
from sslzoo.parts.positions import sincos_positions


def rows(count, width=5, seed=0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class TestNTXent:
    def test_equals_the_value_by_hand(self):
        """Each row's positive has the cosine 1, the two others 0."""
        pair = torch.eye(2)
        assert nt_xent(pair, pair, 1.0).item() == pytest.approx(math.log(1 + 2 / math.e), rel=1e-6)
        assert nt_xent(pair, pair, 0.5).item() == pytest.approx(math.log(1 + 2 / math.e**2), rel=1e-6)

    def test_a_row_is_not_its_own_negative(self):
        """With a single image only the positive is left, so the loss is 0 even for opposite views."""
        assert nt_xent(torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0]]), 0.1).item() == 0.0

    def test_positive_is_the_other_view_of_the_same_image(self):
        first = torch.eye(4)
        right = nt_xent(first, first, 0.1)
        assert right < 0.001
        for shift in (1, 2, 3):
            assert nt_xent(first, first.roll(shift, dims=0), 0.1) > 9

    def test_is_invariant_to_the_length_of_rows(self):
        first, second = rows(4), rows(4, seed=1)
        scaled = nt_xent(first * torch.tensor([[0.1], [1], [7], [300]]), second * 5, 0.2)
        torch.testing.assert_close(scaled, nt_xent(first, second, 0.2), rtol=1e-5, atol=0)

    def test_is_invariant_to_the_order_of_views_and_images(self):
        first, second = rows(4), rows(4, seed=1)
        order = torch.tensor([2, 0, 3, 1])
        torch.testing.assert_close(nt_xent(second, first, 0.2), nt_xent(first, second, 0.2))
        torch.testing.assert_close(nt_xent(first[order], second[order], 0.2), nt_xent(first, second, 0.2))


def gathered(process):
    """For two processes: the output of `gather` and the gradient through it, with different weights of the rows in each process."""
    mine = rows(6)[process * 3 : process * 3 + 3].clone().requires_grad_()
    every = gather(mine)
    (every * rows(6, seed=10 + process)).sum().backward()
    counts = gather(torch.tensor([process]))
    return {"every": every.detach(), "gradient": mine.grad, "counts": counts, "rank": rank()}


class TestGather:
    def test_is_the_identity_in_one_process(self):
        mine = rows(3)
        assert gather(mine) is mine and rank() == 0


class TestEMA:
    def test_frozen_copy_is_an_equal_copy_without_gradients(self):
        student = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        teacher = frozen_copy(student)
        for (name, value), (_, other) in zip(teacher.state_dict().items(), student.state_dict().items(), strict=True):
            assert torch.equal(value, other) and value.data_ptr() != other.data_ptr(), name
        assert not any(parameter.requires_grad for parameter in teacher.parameters())
        assert all(parameter.requires_grad for parameter in student.parameters())

    def test_ema_update_averages_parameters_and_no_buffers(self):
        student = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        teacher = frozen_copy(student)
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.fill_(10.0)
            for parameter in teacher.parameters():
                parameter.fill_(2.0)
        student[1].running_mean.fill_(5.0)
        ema_update(teacher, student, 0.75)
        assert all(torch.equal(parameter, torch.full_like(parameter, 4.0)) for parameter in teacher.parameters())
        assert all(torch.equal(parameter, torch.full_like(parameter, 10.0)) for parameter in student.parameters())
        assert torch.equal(teacher[1].running_mean, torch.zeros(3))

    @pytest.mark.parametrize(("momentum", "left"), [(1, 2.0), (1.0, 2.0), (0, 10.0), (0.0, 10.0)])
    def test_ema_update_with_momentum_0_and_1(self, momentum, left):
        student, teacher = nn.Linear(2, 1), nn.Linear(2, 1).requires_grad_(False)
        nn.init.constant_(student.weight, 10.0)
        nn.init.constant_(teacher.weight, 2.0)
        ema_update(teacher, student, momentum)
        assert teacher.weight.tolist() == [[left, left]]

    def test_momentum_schedules_at_the_anchors(self):
        """METHODS_BEYOND.md, 15.1: 0.992 to 1 at steps 0, 50 and 99 of 100."""
        assert [momentum_schedule(0.992, 1.0, step / 100) for step in (0, 50, 99)] == pytest.approx([0.992, 0.996, 0.999998], abs=5e-7)
        assert [linear_momentum_schedule(0.996, 1.0, step / 100) for step in (0, 25, 100)] == pytest.approx([0.996, 0.997, 1.0])

    def test_momentum_schedule_goes_from_start_to_end(self):
        assert momentum_schedule(0.996, 1.0, 0.0) == pytest.approx(0.996) and momentum_schedule(0.996, 1.0, 1.0) == 1.0
        assert momentum_schedule(0.9, 1.0, 0.5) == pytest.approx(0.95)
        assert momentum_schedule(0.9, 1.0, 1 / 3) == pytest.approx(0.925)
        assert momentum_schedule(0.99, 0.99, 0.7) == pytest.approx(0.99)


class TestMasking:
    @pytest.mark.parametrize(("patches", "ratio", "kept"), [(196, 0.75, 49), (49, 0.75, 12), (64, 0.15, 54), (196, 0.6, 78)])
    def test_number_of_kept_patches(self, patches, ratio, kept):
        keep, masked = split_patches(torch.rand(3, patches), ratio)
        assert keep.shape == (3, kept) and masked.shape == (3, patches - kept)

    def test_each_patch_is_kept_or_masked_and_the_small_numbers_are_kept(self):
        noise = torch.tensor([[0.9, 0.1, 0.5, 0.2], [0.0, 0.8, 0.7, 0.6]])
        keep, masked = split_patches(noise, 0.5)
        assert keep.tolist() == [[1, 3], [0, 3]] and masked.tolist() == [[0, 2], [1, 2]]

    def test_every_patch_is_masked_equally_often(self):
        masked = split_patches(torch.rand(4000, 8, generator=torch.Generator().manual_seed(0)), 0.75)[1]
        shares = torch.bincount(masked.flatten(), minlength=8) / 4000
        assert (shares - 0.75).abs().max() < 0.04

    def test_patchify_goes_row_by_row_with_the_channel_last(self):
        pixels = torch.arange(2 * 3 * 4 * 6).reshape(2, 3, 4, 6)
        expected = [
            [
                [pixels[image, channel, 2 * row + inner_row, 2 * column + inner_column].item()
                 for inner_row in range(2) for inner_column in range(2) for channel in range(3)]
                for row in range(2) for column in range(3)
            ]
            for image in range(2)
        ]  # fmt: skip
        assert patchify(pixels, 2).tolist() == expected

    def test_gather_tokens_and_scatter_tokens_are_inverse(self):
        tokens = rows(2 * 5, 3).reshape(2, 5, 3)
        chosen = torch.tensor([[0, 3], [4, 1]])
        taken = gather_tokens(tokens, chosen)
        assert torch.equal(taken[0], tokens[0, [0, 3]]) and torch.equal(taken[1], tokens[1, [4, 1]])
        filler = torch.full((3,), 7.0, requires_grad=True)
        kept = taken.clone().requires_grad_()
        placed = scatter_tokens(kept, chosen, filler, 5)
        for image in range(2):
            for patch in range(5):
                place = (chosen[image] == patch).nonzero()
                expected = taken[image, place.item()] if len(place) else filler.double()
                assert torch.equal(placed[image, patch], expected)
        placed.sum().backward()
        assert torch.equal(filler.grad, torch.full((3,), 6.0)) and torch.equal(kept.grad, torch.ones(2, 2, 3, dtype=torch.float64))


class TestPositions:
    def test_values_of_eight_channels_on_a_grid_of_two(self):
        """From specs/counts.json, made by the reference library."""
        one, small = (0.841471, 0.540302), (0.01, 0.99995)
        low = [0.0, 0.0, 1.0, 1.0]
        high = [one[0], small[0], one[1], small[1]]
        expected = torch.tensor([[0.0] * 8, low + low, high + low, low + high, high + high])
        torch.testing.assert_close(sincos_positions(8, 2)[0], expected, rtol=0, atol=1e-6)

    def test_all_positions_differ(self):
        positions = sincos_positions(64, 14)[0]
        assert positions.shape == (197, 64) and len(positions.unique(dim=0)) == 197


class TestMLP:
    def test_norms_and_activations_are_after_all_layers_but_the_last(self):
        head = mlp((3, 4, 5, 6))
        assert [type(layer) for layer in head] == [
            nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear,
        ]  # fmt: skip
        assert [(layer.in_features, layer.out_features, layer.bias is not None) for layer in head[::3]] == [
            (3, 4, False), (4, 5, False), (5, 6, True),
        ]  # fmt: skip

    def test_layers_without_a_norm_have_a_bias(self):
        last_norm = mlp((3, 4, 5), last_norm=nn.BatchNorm1d)
        assert [type(layer) for layer in last_norm] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear, nn.BatchNorm1d]
        assert last_norm[0].bias is None and last_norm[3].bias is None and last_norm[4].num_features == 5
        without = mlp((3, 4, 5), norm=None, activation=nn.GELU)
        assert [type(layer) for layer in without] == [nn.Linear, nn.GELU, nn.Linear]
        assert without[0].bias is not None and without[2].bias is not None

    @pytest.mark.parametrize(
        ("widths", "last_norm", "parameters"),
        [
            ((2048, 4096, 256), None, 9_445_632),  # BYOL
            ((512, 2048, 2048, 2048), None, 9_447_424),  # BarlowTwins
            ((512, 512, 128), nn.BatchNorm1d, 328_960),  # SimCLR
            ((512, 2048, 2048, 2048), lambda width: nn.BatchNorm1d(width, affine=False), 9_445_376),  # SimSiam
        ],
    )
    def test_parameter_counts_of_the_reference_heads(self, widths, last_norm, parameters):
        with torch.device("meta"):
            head = mlp(widths, last_norm=last_norm)
        assert sum(parameter.numel() for parameter in head.parameters()) == parameters

    def test_output_equals_the_plain_formulation(self):
        head = mlp((3, 4, 2), norm=None).double()
        inputs = rows(5, 3)
        hidden = (inputs @ head[0].weight.T + head[0].bias).clamp(min=0)
        torch.testing.assert_close(head(inputs), F.linear(hidden, head[2].weight, head[2].bias))
