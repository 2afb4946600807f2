"""SwAV against the paper's sums over pairs of views and its Sinkhorn iterations in plain numbers, in float64; queues by hand."""

import pytest
import torch
from learning import digits_run, gain

from sslzoo import SwAV, SwAVConfig
from sslzoo.method import Progress
from sslzoo.optim import OPTIMIZERS, make_optimizer, set_learning_rates
from sslzoo.recipe import read_recipe

COUNT = 4


def progress(step=0, steps=101, epoch=0):
    return Progress(step, steps, epoch, 0, torch.arange(COUNT))


def method(**changes):
    torch.manual_seed(0)
    values = {"hidden_dim": 32, "projection_dim": 8, "prototypes": 6, "queue_length": 10, "queue_from_epoch": 2, **changes}
    return SwAV(SwAVConfig(**{"encoder": "res6", "image_size": 16, **values})).double().train()


def views(local=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(COUNT, 3, size, size, generator=generator, dtype=torch.float64) for size in [16, 16, *[6] * local]]


def plain_projections(model, pixels, joint):
    """Linear, batch norm, ReLU, linear, and divided by the length."""
    outputs = []
    for size in dict.fromkeys(view.shape[-1] for view in pixels):
        same = [view for view in pixels if view.shape[-1] == size]
        for batch in [torch.cat(same)] if joint else same:
            hidden = model.backbone(pixel_values=batch).last_hidden_state.mean(dim=(2, 3))
            first, norm, _, last = model.projector
            hidden = hidden @ first.weight.T
            centred = hidden - hidden.mean(dim=0)
            hidden = centred / (centred.square().mean(dim=0) + 1e-5).sqrt() * norm.weight + norm.bias
            rows = hidden.clamp(min=0) @ last.weight.T + last.bias
            outputs += torch.stack([row / row.square().sum().sqrt() for row in rows]).split(COUNT)
    return outputs


def plain_codes(logits, temperature, iterations):
    """exp(logits / temperature); in turn, prototypes' shares sum to one over the images, and images' to one over the prototypes."""
    shares = torch.exp(logits / temperature)
    shares = shares / shares.sum()
    for _ in range(iterations):
        shares = torch.stack([column / column.sum() for column in shares.T], dim=1)
        shares = torch.stack([row / row.sum() for row in shares])
    return shares


def plain_loss(model, pixels, joint=True, queued=False, temperature=0.1, epsilon=0.05, iterations=3):
    """For each of the two global views: the mean over all other views of the cross entropy of their predictions with its codes."""
    projections = plain_projections(model, pixels, joint)
    weight = model.prototypes.weight
    bias = 0 if model.prototypes.bias is None else model.prototypes.bias
    logits = [rows @ weight.T + bias for rows in projections]
    total = 0
    for view in range(2):
        candidates = logits[view].detach()
        if queued:
            candidates = torch.cat((candidates, (model.queues[view].rows @ weight.T + bias).detach()))
        codes = plain_codes(candidates, epsilon, iterations)[:COUNT]
        others = [other for other in range(len(pixels)) if other != view]
        for other in others:
            for code, score in zip(codes, logits[other], strict=True):
                prediction = torch.exp(score / temperature)
                total = total - (code * torch.log(prediction / prediction.sum())).sum() / COUNT / len(others) / 2
    return total


@pytest.mark.parametrize(
    ("changes", "plain_changes"),
    [
        ({}, {}),
        ({"joint_views": False}, {"joint": False}),
        ({"prototype_bias": True}, {}),
        ({"temperature": 0.5}, {"temperature": 0.5}),
        ({"sinkhorn_temperature": 0.2, "sinkhorn_iterations": 1}, {"epsilon": 0.2, "iterations": 1}),
        ({"queue_from_epoch": 0}, {"queued": True}),
        ({"queue_from_epoch": 0, "prototype_bias": True}, {"queued": True}),
        ({"queue_length": 0, "queue_from_epoch": 0}, {}),
    ],
    ids=lambda changes: "-".join(changes) or "default",
)
def test_loss_and_gradients_equal_those_of_the_plain_formulation(changes, plain_changes):
    model, pixels = method(**changes), views()
    ours = model(pixels, progress())["loss"]
    plain = plain_loss(model, pixels, **plain_changes)
    torch.testing.assert_close(ours, plain, rtol=1e-8, atol=0)
    weights = list(model.parameters())
    for found, expected in zip(torch.autograd.grad(ours, weights), torch.autograd.grad(plain, weights), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_two_global_views_make_two_pairs():
    model, pixels = method(), views(local=0)
    torch.testing.assert_close(model(pixels, progress())["loss"], plain_loss(model, pixels), rtol=1e-8, atol=0)


def test_local_views_are_never_targets():
    model, pixels = method(), views()
    assigned = []
    assign = model._assign
    model._assign = lambda logits, view, now: assigned.append((view, logits.shape)) or assign(logits, view, now)
    model(pixels, progress())
    assert assigned == [(0, (COUNT, 6)), (1, (COUNT, 6))]


def test_prototypes_have_unit_length_in_each_step():
    model, pixels = method(), views()
    directions = model.prototypes.weight.detach().clone()
    with torch.no_grad():
        model.prototypes.weight.mul_(torch.arange(1.0, 7.0).double()[:, None])
    loss = model(pixels, progress())["loss"]
    torch.testing.assert_close(model.prototypes.weight.norm(dim=1).detach(), torch.ones(6).double())
    torch.testing.assert_close(model.prototypes.weight.detach(), directions / directions.norm(dim=1, keepdim=True))
    torch.testing.assert_close(model(pixels, progress())["loss"], loss)


def test_gradient_of_the_prototypes_is_not_projected_onto_the_sphere():
    """As in the released code: a step may leave the sphere, and the next one normalises the prototypes first."""
    model = method()
    model(views(), progress())["loss"].backward()
    radial = (model.prototypes.weight.grad * model.prototypes.weight).sum(dim=1)
    assert radial.abs().max() > 1e-3


def test_queue_is_used_from_its_epoch_on():
    model, pixels = method(), views()
    losses = [model(pixels, progress(epoch=epoch))["loss"] for epoch in range(4)]
    assert losses[0] == losses[1] != losses[2] == losses[3]
    torch.testing.assert_close(losses[2], plain_loss(model, pixels, queued=True), rtol=1e-8, atol=0)


def test_queues_after_two_steps_by_hand():
    """Each global view has its own queue; the batch replaces the oldest rows after it has been assigned."""
    model = method(queue_from_epoch=0, queue_length=6)
    queues = [queue.rows.clone() for queue in model.queues]
    assert not torch.equal(*queues)
    for step, places in ((0, [0, 1, 2, 3]), (1, [4, 5, 0, 1])):
        pixels = views(seed=step)
        before = [queue.rows.clone() for queue in model.queues]
        out = model(pixels, progress(step))
        torch.testing.assert_close(out["loss"], plain_loss(model, pixels, queued=True), rtol=1e-8, atol=0)
        assert all(torch.equal(queue.rows, rows) for queue, rows in zip(model.queues, before, strict=True))
        model.after_step({"embeddings": out["embeddings"].detach()}, progress(step))
        for queue, rows in zip(queues, plain_projections(model, pixels, True), strict=False):
            for place, row in zip(places, rows, strict=True):
                queue[place] = row.detach()
        for found, expected in zip(model.queues, queues, strict=True):
            torch.testing.assert_close(found.rows, expected)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_prototypes_are_frozen_in_the_first_epoch(kind):
    model = method(prototype_bias=True)
    with torch.no_grad():
        model.prototypes.weight.copy_(torch.nn.functional.normalize(model.prototypes.weight, dim=1))
    optimizer = make_optimizer(model.parameter_groups(), kind, 0.1, 0.9, (0.9, 0.999), True)
    for epoch, moves in ((0, False), (0, False), (1, True)):
        before = {name: parameter.clone() for name, parameter in model.named_parameters()}
        set_learning_rates(optimizer, 0.1, 1.0, epoch)
        model(views(), progress(epoch=epoch))["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        for name, value in model.named_parameters():
            same = torch.allclose(value, before[name], rtol=1e-12, atol=1e-12)
            assert same is (name.startswith("prototypes.") and not moves), name


def test_assignments_have_a_stop_gradient():
    model = method()
    assert not model._assign(torch.randn(4, 6, dtype=torch.float64, requires_grad=True), 0, progress()).requires_grad


@pytest.mark.parametrize(
    ("encoder", "changes", "head", "prototypes"),
    [
        ("res50", {"prototype_bias": True}, 4_460_672, 387_000),
        ("res50", {}, 4_460_672, 384_000),  # the paper's have no bias
        ("res18", {"prototype_bias": True}, 1_314_944, 387_000),
        ("res18", {"hidden_dim": 512, "prototypes": 512, "prototype_bias": True}, 328_832, 66_048),
    ],
)
def test_heads_have_the_reference_tables_parameters(encoder, changes, head, prototypes):
    with torch.device("meta"):
        model = SwAV(SwAVConfig(encoder=encoder, **changes))
    assert sum(parameter.numel() for parameter in model.projector.parameters()) == head
    assert sum(parameter.numel() for parameter in model.prototypes.parameters()) == prototypes


def test_recipe_with_queue_is_swav_with_other_values():
    recipe, without = read_recipe("imagenette/swav-queue"), read_recipe("imagenette/swav")
    assert (recipe.name, recipe.method) == ("swav-res18-imagenette-queue", "swav")
    config, plain = recipe.method_config(), without.method_config()
    assert (config.queue_length, config.queue_from_epoch, config.frozen_epochs) == (384, 15, 1)
    assert (plain.queue_length, plain.frozen_epochs) == (0, 0)


def test_defaults_are_the_papers():
    config = SwAVConfig()
    assert (config.prototypes, config.prototype_bias, config.temperature, config.frozen_epochs) == (3000, False, 0.1, 1)
    assert (config.sinkhorn_temperature, config.sinkhorn_iterations, config.queue_length, config.queue_from_epoch) == (0.05, 3, 3840, 15)
    large, small = SwAV.views(224).values()
    assert (large.size, large.count, large.scale, small.size, small.count, small.scale) == (224, 2, (0.14, 1.0), 96, 6, (0.05, 0.14))


@pytest.mark.slow
def test_training_beats_the_untrained_encoder(tmp_path):
    assert gain(digits_run("digits/swav", tmp_path / "run", epochs=1)) > 0.06
