"""VISReg against the paper's terms, one direction and one image after the other, in float64."""

import statistics

import pytest
import torch
from learning import digits_run, gain

from sslzoo import VISReg, VISRegConfig
from sslzoo.method import Progress
from sslzoo.methods.visreg import gaussian_terms
from sslzoo.parts.directions import random_directions

COUNT = 5


def progress(epoch=0):
    return Progress(0, 10, epoch, 0, torch.arange(COUNT))


def method(**changes):
    torch.manual_seed(0)
    values = {"encoder": "res6", "image_size": 16, "hidden_dim": 16, "projection_dim": 6, "directions": 12, "joint_views": False}
    return VISReg(VISRegConfig(**{**values, **changes})).double().train()


def pixels(global_views=2):
    generator = torch.Generator().manual_seed(1)
    sizes = [16] * global_views + [8, 8]
    return [torch.randn(COUNT, 3, size, size, generator=generator, dtype=torch.float64) for size in sizes]


def directions_of_the_batch():
    """Five images draw at least twelve directions of six numbers: three each."""
    return random_directions(progress().draw(18).view(15, 6).double())


def plain_terms(view, directions):
    """The means, deviations and sorted projections of one view's rows; deviations are constants in the third."""
    columns = [[row[j] for row in view] for j in range(view.shape[1])]
    means = [sum(column) / len(column) for column in columns]
    deviations = [(sum((x - mean) ** 2 for x in column) / len(column)).sqrt() for column, mean in zip(columns, means, strict=True)]
    center = sum(mean**2 for mean in means) / len(means)
    scale = sum((1 - deviation) ** 2 for deviation in deviations) / len(deviations)
    shape = 0.0
    for direction in directions:
        projected = []
        for row in view:
            standard = [(x - mean) / (deviation.item() + 1e-4) for x, mean, deviation in zip(row, means, deviations, strict=True)]
            projected.append(sum(x * part for x, part in zip(standard, direction, strict=True)))
        for rank, value in enumerate(sorted(projected, key=torch.Tensor.item), start=1):
            quantile = statistics.NormalDist().inv_cdf(rank / (len(view) + 1))
            shape = shape + (value - quantile) ** 2 / len(view) / len(directions)
    return center, scale, shape


def plain_loss(embeddings, global_views, directions, weight):
    center = sum(embeddings[:global_views]) / global_views
    prediction = sum(((center - view) ** 2).mean() for view in embeddings) / len(embeddings)
    gaussian = sum(sum(plain_terms(view, directions)) for view in embeddings) / len(embeddings)
    return (1 - weight) * prediction + weight * gaussian


@pytest.mark.parametrize(("weight", "global_views"), [(0.9, 2), (0.6, 3), (0.0, 2), (1.0, 1)])
def test_loss_and_gradients_equal_those_of_the_plain_formulation(weight, global_views):
    model = method(gaussian_weight=weight)
    views = pixels(global_views)
    loss = model.loss(views, progress())["loss"]
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    expected = plain_loss([model._embed(view) for view in views], global_views, directions_of_the_batch(), weight)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for found, wanted in zip(gradients, torch.autograd.grad(expected, list(model.parameters())), strict=True):
        assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-8)


def test_terms_tell_what_is_wrong():
    generator = torch.Generator().manual_seed(0)
    directions = random_directions(torch.rand(64, 8, generator=generator)).double()
    gaussian = torch.randn(1, 2000, 8, generator=generator, dtype=torch.float64)
    signs = gaussian.sign()
    cases = {
        "gaussian": (gaussian, set()), "shifted": (gaussian + 1, {"center"}), "too wide": (2 * gaussian, {"scale"}),
        "a line": (gaussian[..., :1].expand(-1, -1, 8), {"shape"}), "corners": (2 * signs + 1, {"center", "scale", "shape"}),
        "collapsed": (0 * gaussian, {"scale", "shape"}),
    }  # fmt: skip
    for name, (embeddings, large) in cases.items():
        terms = dict(zip(("center", "scale", "shape"), gaussian_terms(embeddings, directions), strict=True))
        assert {term for term, value in terms.items() if value > 0.005} == large, (name, terms)


def test_gradient_of_a_collapsed_batch_is_finite():
    embeddings = torch.zeros(2, 4, 6, dtype=torch.float64, requires_grad=True)
    sum(gaussian_terms(embeddings, directions_of_the_batch())).backward()
    assert torch.isfinite(embeddings.grad).all() and embeddings.grad.abs().max() > 0


def test_directions_change_with_every_epoch_and_none_is_used_twice():
    model, views = method(), pixels()
    assert model.loss(views, progress(0))["shape"] != model.loss(views, progress(1))["shape"]
    assert len(directions_of_the_batch().unique(dim=0)) == 15


def test_defaults_are_the_papers():
    config = VISRegConfig()
    assert (config.gaussian_weight, config.directions, config.hidden_dim, config.projection_dim) == (0.9, 4096, 2048, 256)
    views = VISReg.views(224)
    assert {name: (view.count, view.size, view.scale) for name, view in views.items()} == {
        "global": (2, 224, (0.3, 1.0)), "local": (6, 96, (0.05, 0.3)),
    }  # fmt: skip
    with torch.device("meta"):
        head = VISReg(config).projector
    assert sum(parameter.numel() for parameter in head.parameters() if parameter.ndim > 1) == 384 * 2048 + 2048 * 2048 + 2048 * 256


@pytest.mark.slow
def test_training_beats_the_untrained_encoder(tmp_path):
    assert gain(digits_run("digits/visreg", tmp_path / "run", epochs=1)) > 0.08
