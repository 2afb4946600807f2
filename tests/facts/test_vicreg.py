"""VICReg against equations 1 to 6 of the paper, written out output by output in float64."""

import pytest
import torch
from learning import digits_run, gain

from sslzoo import VICReg, VICRegConfig
from sslzoo.method import Progress
from sslzoo.recipe import read_recipe

PROGRESS = Progress(0, 10, 0, 0, torch.arange(4))


def method(**changes):
    torch.manual_seed(0)
    values = {"encoder": "res6", "image_size": 16, "hidden_dim": 32, "projection_dim": 16, **changes}
    return VICReg(VICRegConfig(**values)).double().train()


def views(count=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(count, 3, 16, 16, generator=generator, dtype=torch.float64) for _ in range(2)]


def projections(model, pixels):
    """The network with its own layers; batch norms are tested with SimCLR."""

    def project(images):
        return model.projector(model.backbone(pixel_values=images).last_hidden_state.mean(dim=(2, 3)))

    return project(torch.cat(pixels)).chunk(2) if model.config.joint_views else [project(one) for one in pixels]


def assert_same(ours, plain, weights):
    """Loss and gradients."""
    torch.testing.assert_close(ours, plain, rtol=1e-10, atol=0)
    for found, expected in zip(torch.autograd.grad(ours, weights), torch.autograd.grad(plain, weights), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-10)


def plain_terms(first, second):
    """Invariance, the variances' mean and the covariances' sum over both views."""
    count, width = first.shape
    invariance = sum((one - other).square().sum() for one, other in zip(first, second, strict=True)) / count / width
    variance, covariance = 0, 0
    for rows in (first, second):
        mean = sum(rows) / count
        for i in range(width):
            squares = sum((row[i] - mean[i]) ** 2 for row in rows) / (count - 1)
            deviation = torch.sqrt(squares + 1e-4)
            if deviation < 1:
                variance = variance + (1 - deviation) / width / 2
            for j in range(width):
                if j != i:
                    covariance = covariance + (sum((row[i] - mean[i]) * (row[j] - mean[j]) for row in rows) / (count - 1)) ** 2 / width
    return invariance, variance, covariance


@pytest.mark.parametrize("weights", [(25, 25, 1), (3, 0, 0), (0, 3, 0), (0, 0, 3)], ids=str)
def test_loss_and_gradients_equal_those_of_the_plain_formulation(weights):
    invariance, variance, covariance = weights
    model = method(projection_dim=6, invariance_weight=invariance, variance_weight=variance, covariance_weight=covariance)
    with torch.no_grad():
        model.projector[-1].weight.mul_(torch.linspace(1, 12, 6)[:, None])  # deviations on both sides of 1
    out = model(views(), PROGRESS)
    terms = plain_terms(*projections(model, views()))
    plain = sum(weight * term for weight, term in zip(weights, terms, strict=True))
    assert_same(out["loss"], plain, [weight for name, weight in model.named_parameters() if name != "projector.6.bias"])
    assert 0 < terms[1] < 1
    torch.testing.assert_close(torch.stack([out["invariance"], out["variance"], 2 * out["covariance"]]), torch.stack(terms).detach())


def test_separate_views_do_not_share_batch_norms():
    model = method(joint_views=False)
    terms = plain_terms(*projections(model, views()))
    torch.testing.assert_close(model(views(), PROGRESS)["loss"], 25 * terms[0] + 25 * terms[1] + terms[2], rtol=1e-10, atol=0)


def test_collapse_has_the_largest_loss():
    """Equal rows agree and do not covary, but have no variance: each deviation is 0.01 instead of 1."""
    model = method()
    model._embed = lambda pixels: torch.ones(8, 16, dtype=torch.float64)
    assert model(views(), PROGRESS)["loss"].item() == pytest.approx(25 * 0.99)


def test_both_views_get_gradients():
    model = method()
    first, second = (torch.randn(4, 16, dtype=torch.float64, requires_grad=True) for _ in range(2))
    model._embed = lambda pixels: torch.cat((first, second))
    model(views(), PROGRESS)["loss"].backward()
    assert (first.grad != 0).all() and (second.grad != 0).all()


def test_loss_depends_on_the_hyperparameters_of_a_recipe():
    config = read_recipe("imagenette/vicreg", {"covariance_weight": 2.0}).method_config()
    assert (config.invariance_weight, config.variance_weight, config.covariance_weight) == (25, 25, 2)


def test_defaults_are_the_papers():
    config = VICRegConfig()
    assert (config.invariance_weight, config.variance_weight, config.covariance_weight) == (25, 25, 1)
    assert (config.hidden_dim, config.hidden_layers, config.projection_dim) == (8192, 2, 8192)


@pytest.mark.parametrize(("recipe", "parameters"), [("imagenet1k", 83_910_656), ("imagenette", 9_447_424)])
def test_head_has_the_reference_tables_parameters(recipe, parameters):
    with torch.device("meta"):
        model = read_recipe(f"{recipe}/vicreg").make_method()
    assert sum(parameter.numel() for parameter in model.projector.parameters()) == parameters
    assert isinstance(model.projector[-1], torch.nn.Linear)


def test_views_are_two_of_the_same_kind_solarized_before_the_blur():
    (view,) = VICReg.views(224).values()
    assert (view.count, view.size, view.scale, view.horizontal_flip) == (2, 224, (0.08, 1.0), 0.5)
    assert (view.brightness, view.contrast, view.saturation, view.hue, view.jitter) == (0.4, 0.4, 0.2, 0.1, 0.8)
    assert (view.grayscale, view.blur, view.blur_sigma, view.solarize, view.solarize_first) == (0.2, 0.5, (0.1, 2.0), 0.1, True)


@pytest.mark.slow
def test_training_beats_the_untrained_encoder(tmp_path):
    assert gain(digits_run("digits/vicreg", tmp_path / "run", epochs=1, lr=0.003)) > 0.07
