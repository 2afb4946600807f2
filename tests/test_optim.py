"""Optimisers, groups and schedules against the numbers and formulas they are specified by."""

import math

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from sslzoo.optim import (
    LARS,
    OPTIMIZERS,
    ParameterGroup,
    clip_gradients,
    decay_groups,
    lr_factor,
    make_optimizer,
    peak_lr,
    set_learning_rates,
    set_weight_decay,
    weight_decay_at,
)


def tensor(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class TestLARS:
    @pytest.mark.parametrize("decay", [0.0, 1e-6, 0.1])
    def test_three_steps_equal_the_formula_tensor_by_tensor(self, decay):
        weights = [tensor(3, 4), 5 * tensor(7, seed=1), torch.zeros(2, dtype=torch.float64), 0.01 * tensor(2, 2, seed=2)]
        parameters = [nn.Parameter(weight.clone()) for weight in weights]
        optimizer = LARS([{"params": parameters, "weight_decay": decay}], lr=0.3, momentum=0.8)
        buffers = [None] * 4
        for step in range(3):
            for index, parameter in enumerate(parameters):
                gradient = tensor(*parameter.shape, seed=10 * step + index) * 10 ** (index - 2)
                if index == 3 and step == 1:
                    gradient = torch.zeros_like(gradient)
                parameter.grad = gradient.clone()
                weight = weights[index]
                size, slope = math.sqrt(sum(weight.flatten() ** 2)), math.sqrt(sum(gradient.flatten() ** 2))
                if decay and size and slope:
                    gradient = 0.001 * size / (slope + decay * size + 1e-8) * (gradient + decay * weight)
                buffers[index] = gradient if buffers[index] is None else 0.8 * buffers[index] + gradient
                weights[index] = weight - 0.3 * buffers[index]
            optimizer.step()
            for parameter, weight in zip(parameters, weights, strict=True):
                # The decay is kept in float32.
                torch.testing.assert_close(parameter.detach(), weight, rtol=1e-7, atol=1e-10)

    def test_step_does_not_depend_on_the_gradients_scale(self):
        moved = []
        for scale in (1.0, 1000.0):
            parameter = nn.Parameter(tensor(4))
            parameter.grad = scale * tensor(4, seed=1)
            LARS([parameter], lr=1.0, weight_decay=1e-9).step()
            moved.append(parameter.detach() - tensor(4))
        torch.testing.assert_close(moved[0], moved[1], rtol=1e-5, atol=0)
        assert float(moved[0].norm() / tensor(4).norm()) == pytest.approx(0.001, rel=1e-5), "a thousandth of the weights' norm"

    def test_group_without_decay_is_plain_sgd(self):
        parameter = nn.Parameter(tensor(4))
        parameter.grad = tensor(4, seed=1)
        LARS([{"params": [parameter], "weight_decay": 0.0}], lr=0.5).step()
        torch.testing.assert_close(parameter.detach(), tensor(4) - 0.5 * tensor(4, seed=1))

    def test_gradients_are_left_alone_and_parameters_without_one_too(self):
        used, unused = nn.Parameter(tensor(4)), nn.Parameter(tensor(3))
        used.grad = tensor(4, seed=1)
        for decay in (0.0, 0.1):
            LARS([{"params": [used, unused], "weight_decay": decay}], lr=0.5).step()
        assert torch.equal(used.grad, tensor(4, seed=1)) and torch.equal(unused.detach(), tensor(3))

    def test_goes_on_from_its_state(self):
        def steps(optimizer, parameter, seeds):
            for seed in seeds:
                parameter.grad = tensor(4, seed=seed)
                optimizer.step()

        whole = nn.Parameter(tensor(4))
        steps(LARS([whole], lr=0.5, weight_decay=0.1), whole, (1, 2, 3))
        first = nn.Parameter(tensor(4))
        optimizer = LARS([first], lr=0.5, weight_decay=0.1)
        steps(optimizer, first, (1, 2))
        second = nn.Parameter(first.detach().clone())
        resumed = LARS([second], lr=0.1, weight_decay=0.2)
        resumed.load_state_dict(optimizer.state_dict())
        steps(resumed, second, (3,))
        assert torch.equal(whole, second)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_every_optimizer_steps_through_accelerate(kind):
    """Accelerate hands a closure on, None."""
    parameter = nn.Parameter(torch.ones(3))
    optimizer = make_optimizer([ParameterGroup([parameter])], kind, 0.1, 0.9, (0.9, 0.999), True)
    set_learning_rates(optimizer, 0.1, 1.0, 0)
    prepared = Accelerator(cpu=True).prepare(optimizer)
    parameter.grad = torch.ones(3)
    prepared.step()
    assert (parameter < 1).all()


class TestMakeOptimizer:
    def test_sgd_and_adamw_do_what_they_say(self):
        """First steps by hand, from 2 with the gradient 0.5."""
        expected = {
            "sgd": 2 - 0.1 * (0.5 + 0.3 * 2),
            "adam": 2 - 0.1,  # the decay is in the gradient, whose size does not matter in the first step
            "adamw": 2 - 0.1 * 0.3 * 2 - 0.1,
            "lars": 2 - 0.1 * 0.001 * 2 / (0.5 + 0.3 * 2) * (0.5 + 0.3 * 2),
        }
        for kind in OPTIMIZERS:
            parameter = nn.Parameter(torch.tensor([2.0]))
            optimizer = make_optimizer([ParameterGroup([parameter])], kind, 0.3, 0.9, (0.5, 0.6), True)
            set_learning_rates(optimizer, 0.1, 1.0, 0)
            parameter.grad = torch.tensor([0.5])
            optimizer.step()
            assert parameter.item() == pytest.approx(expected[kind], rel=1e-6), kind
            settings = optimizer.param_groups[0]
            assert settings["betas"] == (0.5, 0.6) if kind in ("adam", "adamw") else settings["momentum"] == 0.9

    def test_adams_weight_decay_is_a_term_of_the_gradient(self):
        parameter = nn.Parameter(torch.tensor([2.0]))
        optimizer = make_optimizer([ParameterGroup([parameter])], "adam", 0.3, 0.9, (0.5, 0.6), True)
        set_learning_rates(optimizer, 0.1, 1.0, 0)
        parameter.grad = torch.tensor([-0.6])  # which the decay just cancels
        optimizer.step()
        assert parameter.item() == pytest.approx(2.0)

    def test_a_group_may_have_a_share_of_the_learning_rate(self):
        groups = [ParameterGroup([nn.Parameter(torch.ones(1))], lr_factor=factor) for factor in (1.0, 0.024)]
        optimizer = make_optimizer(groups, "sgd", 0.0, 0.9, (0.9, 0.999), True)
        set_learning_rates(optimizer, 0.2, 0.5, 0)
        assert [group["lr"] for group in optimizer.param_groups] == [pytest.approx(0.1), pytest.approx(0.0024)]

    @pytest.mark.parametrize("kind", OPTIMIZERS)
    @pytest.mark.parametrize(("everything", "expected"), [(True, [0.3, 0.3]), (False, [0.3, 0.0])])
    def test_decay_of_norms_and_biases_is_the_recipes_choice(self, kind, everything, expected):
        groups = decay_groups(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
        optimizer = make_optimizer(groups, kind, 0.3, 0.9, (0.9, 0.999), everything)
        assert [group["weight_decay"] for group in optimizer.param_groups] == expected

    def test_weight_decay_is_set_where_there_is_any(self):
        groups = decay_groups(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
        for everything, expected in ((True, [0.2, 0.2]), (False, [0.2, 0.0])):
            optimizer = make_optimizer(groups, "adamw", 0.0, 0.9, (0.9, 0.999), everything)
            set_weight_decay(optimizer, 0.2)
            assert [group["weight_decay"] for group in optimizer.param_groups] == expected

    @pytest.mark.parametrize("everything", [True, False])
    def test_layer_scale_is_never_decayed(self, everything):
        net = nn.ModuleDict({"block": nn.ParameterDict({"lambda1": torch.ones(2), "weight": torch.ones(2, 2)}), "norm": nn.LayerNorm(2)})
        optimizer = make_optimizer(decay_groups(net), "adamw", 0.3, 0.9, (0.9, 0.999), everything)
        set_weight_decay(optimizer, 0.2)
        decays = {id(parameter): group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
        names = {name: decays[id(parameter)] for name, parameter in net.named_parameters()}
        norms = 0.2 if everything else 0.0
        assert names == {"block.lambda1": 0.0, "block.weight": 0.2, "norm.weight": norms, "norm.bias": norms}

    def test_empty_groups_are_left_out(self):
        optimizer = make_optimizer(decay_groups(nn.Linear(2, 2, bias=False)), "sgd", 0.3, 0.9, (0.9, 0.999), False)
        assert len(optimizer.param_groups) == 1


class TestGroups:
    def test_norms_and_biases_are_exempt_and_everything_else_is_decayed(self):
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.convolution = nn.Conv2d(3, 4, 1)
                self.norms = nn.ModuleList([nn.BatchNorm2d(4), nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True)])
                self.cls_token = nn.Parameter(torch.zeros(1, 1, 4))
                self.positions = nn.Parameter(torch.zeros(1, 5, 4))
                self.fixed = nn.Parameter(torch.zeros(2), requires_grad=False)
                self.scale = nn.Parameter(torch.zeros(4))
                self.own = nn.Linear(4, 2)

        net = Net()
        names = {id(parameter): name for name, parameter in net.named_parameters()}
        decayed, exempt = decay_groups(net, exclude=list(net.own.parameters()))
        assert {names[id(parameter)] for parameter in decayed.parameters} == {"convolution.weight", "cls_token", "positions", "scale"}
        assert {names[id(parameter)] for parameter in exempt.parameters} == {
            "convolution.bias", *(f"norms.{index}.{kind}" for index in range(4) for kind in ("weight", "bias")),
        }  # fmt: skip
        assert decayed.decay and not exempt.decay

    def test_frozen_and_constant_groups(self):
        usual, constant, frozen = (nn.Parameter(torch.ones(2)) for _ in range(3))
        groups = [ParameterGroup([usual]), ParameterGroup([constant], constant_lr=True), ParameterGroup([frozen], frozen_epochs=2)]
        optimizer = make_optimizer(groups, "sgd", 0.1, 0.9, (0.9, 0.999), True)
        for epoch, rates in ((0, [0.15, 0.3, 0.0]), (1, [0.15, 0.3, 0.0]), (2, [0.15, 0.3, 0.15])):
            set_learning_rates(optimizer, 0.3, 0.5, epoch)
            assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(rates)

    @pytest.mark.parametrize("kind", OPTIMIZERS)
    def test_what_is_frozen_does_not_move_and_then_does(self, kind):
        frozen = nn.Parameter(torch.ones(2))
        optimizer = make_optimizer([ParameterGroup([frozen], frozen_epochs=1)], kind, 0.1, 0.9, (0.9, 0.999), True)
        for epoch in (0, 0, 1):
            frozen.grad = torch.ones(2)
            set_learning_rates(optimizer, 0.1, 1.0, epoch)
            optimizer.step()
            assert torch.equal(frozen, torch.ones(2)) is (epoch == 0)


class TestClipping:
    @pytest.mark.parametrize("clip", ["tensor", "network"])
    def test_parts_are_clipped_as_torch_clips_each(self, clip):
        """Some above and some below the largest norm, and one without a gradient."""
        shapes, networks = [(3, 4), (5,), (2, 2), (4,), (3,)], ["encoder", "encoder", "image_head", "patch_head", "patch_head"]
        parameters = [nn.Parameter(tensor(*shape)) for shape in shapes]
        for index, parameter in enumerate(parameters[:-1]):
            parameter.grad = tensor(*parameter.shape, seed=index) * 10.0 ** (1 - index)
        copies = [nn.Parameter(parameter.detach().clone()) for parameter in parameters]
        for copy, parameter in zip(copies, parameters, strict=True):
            copy.grad = None if parameter.grad is None else parameter.grad.clone()
        groups = [ParameterGroup([parameter], network=network) for parameter, network in zip(parameters, networks, strict=True)]
        clip_gradients(make_optimizer(groups, "sgd", 0.0, 0.9, (0.9, 0.999), True), clip, 3.0)
        for part in [[0, 1], [2], [3, 4]] if clip == "network" else [[index] for index in range(5)]:
            nn.utils.clip_grad_norm_([copies[index] for index in part], 3.0)
        for parameter, copy in zip(parameters[:-1], copies, strict=False):
            torch.testing.assert_close(parameter.grad, copy.grad, rtol=1e-12, atol=0)
        assert parameters[-1].grad is None and parameters[0].grad.norm() < 3.0001 and 0 < parameters[3].grad.norm() < 1

    def test_without_gradients_nothing_happens(self):
        clip_gradients(make_optimizer([ParameterGroup([nn.Parameter(tensor(2))])], "sgd", 0.0, 0.9, (0.9, 0.999), True), "tensor", 1.0)


def factors(schedule, steps, *, steps_per_epoch, epochs, warmup_epochs=0.0, final=0.0, first=None):
    return [lr_factor(schedule, step, steps_per_epoch, epochs, warmup_epochs, final, first) for step in steps]


class TestSchedules:
    def test_cosine_per_step_at_the_anchors(self):
        """METHODS.md, 1.6: 10 steps of warm-up, 100 in all, end 0.001."""
        steps = [0, 8, 9, 10, 11, 50, 98, 99]
        found = factors("cosine_per_step", steps, steps_per_epoch=10, epochs=10, warmup_epochs=1, final=0.001)
        assert found == pytest.approx([0.1, 0.9, 1.0, 1.0, 0.9996888, 0.5795096, 0.0013112, 0.001], abs=5e-8)

    def test_cosine_per_epoch_takes_epochs_for_steps(self):
        anchors = [0.1, 0.9, 1.0, 1.0, 0.9996888, 0.5795096, 0.0013112, 0.001]
        for inside in (0, 6):
            steps = [7 * epoch + inside for epoch in (0, 8, 9, 10, 11, 50, 98, 99)]
            found = factors("cosine_per_epoch", steps, steps_per_epoch=7, epochs=100, warmup_epochs=10, final=0.001)
            assert found == pytest.approx(anchors, abs=5e-8)

    def test_annealing_per_step_from_a_start_value_is_dinov2s(self):
        """METHODS_BEYOND.md, 15.1: peak 0.004, end 1e-6, 10 of 100 steps of warm-up from 0; the peak comes twice."""
        steps = [0, 5, 9, 10, 50, 99]
        found = factors("annealing_per_step", steps, steps_per_epoch=10, epochs=10, warmup_epochs=1, final=1e-6 / 0.004, first=0.0)
        assert [0.004 * factor for factor in found] == pytest.approx([0, 0.00222222, 0.004, 0.004, 0.00234771, 2.21804e-06], rel=3e-6)

    @pytest.mark.parametrize("schedule", ["cosine_per_step", "cosine_per_epoch", "annealing_per_step"])
    def test_warm_up_goes_from_its_start_to_the_peak_on_a_line(self, schedule):
        """I-JEPA's goes from 2e-4 to 1e-3."""
        found = factors(schedule, range(5), steps_per_epoch=1, epochs=9, warmup_epochs=5, first=0.2)
        assert found == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
        assert factors(schedule, [0], steps_per_epoch=1, epochs=9, warmup_epochs=1, first=0.2) == [0.2]
        assert factors(schedule, range(5), steps_per_epoch=1, epochs=9, warmup_epochs=5) == [0.2, 0.4, 0.6, 0.8, 1.0], "a fifth at first"

    def test_annealing_is_torchs_and_constant_inside_an_epoch(self):
        optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
        for epoch in range(20):
            expected = optimizer.param_groups[0]["lr"]
            steps = range(5 * epoch, 5 * epoch + 5)
            found = factors("annealing_per_epoch", steps, steps_per_epoch=5, epochs=20, warmup_epochs=3, final=0.5)
            assert found == pytest.approx([expected] * 5, abs=1e-12) and found[0] > 0
            optimizer.step()
            scheduler.step()

    def test_weight_decay_at_the_anchors(self):
        """METHODS_BEYOND.md, 15.1."""
        assert [weight_decay_at(0.04, 0.4, step, 100) for step in (0, 50, 99)] == pytest.approx([0.04, 0.22, 0.399911], abs=5e-7)

    def test_constant(self):
        assert factors("constant", [0, 5, 99], steps_per_epoch=10, epochs=10, warmup_epochs=5, final=0.1) == [1.0, 1.0, 1.0]

    @pytest.mark.parametrize("schedule", ["cosine_per_step", "cosine_per_epoch"])
    def test_never_starts_at_zero_or_leaves_the_range(self, schedule):
        for epochs in (1, 2, 5):
            for warmup_epochs in (0, 0.5, 1, 2, 7):
                for steps_per_epoch in (1, 4):
                    steps = range(epochs * steps_per_epoch)
                    found = factors(schedule, steps, steps_per_epoch=steps_per_epoch, epochs=epochs, warmup_epochs=warmup_epochs)
                    assert found[0] > 0 and all(0 <= factor <= 1 for factor in found)

    @pytest.mark.parametrize("schedule", ["cosine_per_step", "cosine_per_epoch"])
    def test_ends_exactly_at_the_final_factor(self, schedule):
        for final in (0.0, 0.001, 0.5):
            assert factors(schedule, [59], steps_per_epoch=6, epochs=10, warmup_epochs=2, final=final) == pytest.approx([final], abs=1e-15)

    def test_scalings(self):
        assert peak_lr(0.3, "none", 512) == 0.3 and peak_lr(0.3, "batch/256", 512) == pytest.approx(0.6)
        assert peak_lr(0.06, "batch/128", 512) == pytest.approx(0.24)
        assert peak_lr(0.075, "sqrt(batch)", 256) == pytest.approx(1.2), "SimCLR on ImageNet"
