"""LeJEPA against the paper's terms, one direction and one frequency after the other, in float64."""

import math

import pytest
import torch
from learning import digits_run, gain

from sslzoo import LeJEPA, LeJEPAConfig
from sslzoo.method import Progress
from sslzoo.methods.lejepa import epps_pulley
from sslzoo.parts.directions import random_directions

COUNT = 5


def progress(epoch=0):
    return Progress(0, 10, epoch, 0, torch.arange(COUNT))


def method(**changes):
    torch.manual_seed(0)
    values = {"encoder": "res6", "image_size": 16, "hidden_dim": 16, "projection_dim": 6, **changes}
    return LeJEPA(LeJEPAConfig(**values)).double().train()


def pixels():
    generator = torch.Generator().manual_seed(1)
    sizes = [16, 16, 8, 8]
    return [torch.randn(COUNT, 3, size, size, generator=generator, dtype=torch.float64) for size in sizes]


def plain_statistic(sample):
    """n * integral over all t of |characteristic function of the sample - exp(-t^2/2)|^2 exp(-t^2/2), from -3 to 3 in steps of 3/16."""
    total = 0.0
    for knot in range(-16, 17):
        t = 3 * knot / 16
        real = sum(torch.cos(t * value) for value in sample) / len(sample)
        imaginary = sum(torch.sin(t * value) for value in sample) / len(sample)
        weight = (0.5 if abs(knot) == 16 else 1.0) * 3 / 16
        total = total + weight * ((real - math.exp(-t * t / 2)) ** 2 + imaginary**2) * math.exp(-t * t / 2)
    return len(sample) * total


def plain_loss(embeddings, directions, weight):
    center = (embeddings[0] + embeddings[1]) / 2
    prediction = sum(((center - view) ** 2).mean() for view in embeddings) / len(embeddings)
    statistics = [plain_statistic(view @ direction) for view in embeddings for direction in directions]
    return (1 - weight) * prediction + weight * sum(statistics) / len(statistics)


@pytest.mark.parametrize("weight", [0.05, 0.5])
def test_loss_and_gradients_equal_those_of_the_plain_formulation(weight):
    model = method(gaussian_weight=weight, joint_views=False)
    views = pixels()
    loss = model.loss(views, progress())["loss"]
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    embeddings = [model._embed(view) for view in views]
    directions = random_directions(progress().draw(6)).double()
    expected = plain_loss(embeddings, directions, weight)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for found, wanted in zip(gradients, torch.autograd.grad(expected, list(model.parameters())), strict=True):
        assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-8)


def test_gradient_reaches_the_views_and_their_mean():
    """There is no stop-gradient and no teacher: the mean of the global views is pulled towards the others too."""
    embeddings = [torch.randn(COUNT, 6, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    model = method(gaussian_weight=0.0)
    model._embed = lambda view: embeddings[int(view[0, 0, 0, 0])]
    views = [torch.full((COUNT, 3, 4, 4), float(index)) for index in range(3)]
    model.config.joint_views = False
    model.loss(views, progress())["loss"].backward()
    center = (embeddings[0] + embeddings[1]).detach() / 2
    residual = embeddings[2].detach() - center
    # d/dz_0 of the mean squares of z_0 - c, z_1 - c and z_2 - c with c = (z_0 + z_1) / 2
    expected = 2 * ((embeddings[0] - embeddings[1]).detach() / 2 - residual / 2) / (3 * COUNT * 6)
    assert torch.allclose(embeddings[0].grad, expected, atol=1e-9)


def test_statistic_is_small_for_a_gaussian_and_large_otherwise():
    generator = torch.Generator().manual_seed(0)
    directions = random_directions(torch.rand(32, 8, generator=generator))
    gaussian = torch.randn(2000, 8, generator=generator)
    cases = {"collapsed": torch.zeros(2000, 8), "too wide": 2 * gaussian, "shifted": gaussian + 1, "a line": gaussian[:, :1].repeat(1, 8)}
    well = epps_pulley(gaussian, directions, 17, 3.0).mean()
    for name, embeddings in cases.items():
        assert epps_pulley(embeddings, directions, 17, 3.0).mean() > 20 * well, name


def test_directions_are_uniform_unit_vectors():
    directions = random_directions(torch.rand(20000, 3, generator=torch.Generator().manual_seed(0)))
    assert torch.allclose(directions.norm(dim=1), torch.ones(20000), atol=1e-5)
    # Archimedes: each coordinate of a point on the sphere is uniform.
    assert torch.histc(directions[:, 2], 10, -1, 1).tolist() == pytest.approx([2000] * 10, rel=0.1)


def test_directions_change_with_every_epoch():
    model, views = method(), pixels()
    assert model.loss(views, progress(0))["gaussian"] != model.loss(views, progress(1))["gaussian"]


def test_defaults_are_the_papers_and_the_pages():
    config = LeJEPAConfig()
    assert (config.gaussian_weight, config.knots, config.reach) == (0.05, 17, 3.0)
    assert (config.hidden_dim, config.projection_dim) == (2048, 64)
    views = LeJEPA.views(224)
    assert {name: (view.count, view.size, view.scale) for name, view in views.items()} == {
        "global": (2, 224, (0.3, 1.0)), "local": (6, 96, (0.05, 0.3)),
    }  # fmt: skip
    # Smaller images: the same ratio, in whole patches of 4 px, at least one.
    assert [LeJEPA.views(size)["local"].size for size in (96, 64, 32, 16, 4)] == [40, 28, 12, 8, 4]


@pytest.mark.slow
def test_training_beats_the_untrained_encoder(tmp_path):
    assert gain(digits_run("digits/lejepa", tmp_path / "run", epochs=1)) > 0.08
