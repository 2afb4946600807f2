"""Barlow Twins against equations 1 and 2 of the paper, written out output by output in float64."""

import pytest
import torch
from learning import digits_run, gain, penalty_for_other_images

from sslzoo import BarlowTwins, BarlowTwinsConfig
from sslzoo.method import Progress
from sslzoo.recipe import read_recipe

PROGRESS = Progress(0, 10, 0, 0, torch.arange(4))


def method(**changes):
    torch.manual_seed(0)
    values = {"encoder": "res6", "image_size": 16, "hidden_dim": 32, "projection_dim": 16, **changes}
    return BarlowTwins(BarlowTwinsConfig(**values)).double().train()


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


def plain_loss(first, second, redundancy_weight):
    """The sum over all pairs of outputs of (1 - C)^2 on the diagonal and lambda * C^2 off it, C their correlation over the batch."""
    total = 0
    for i in range(first.shape[1]):
        for j in range(second.shape[1]):
            one, other = first[:, i] - first[:, i].mean(), second[:, j] - second[:, j].mean()
            # A batch norm in training has the biased variance, and 1e-5 so as not to divide by 0.
            correlation = (one * other).mean() / ((one.square().mean() + 1e-5) * (other.square().mean() + 1e-5)).sqrt()
            total = total + ((1 - correlation).square() if i == j else redundancy_weight * correlation.square())
    return total


@pytest.mark.parametrize(("joint", "redundancy_weight", "count"), [(True, 0.005, 4), (True, 0.1, 12), (False, 0.005, 12), (False, 0.1, 4)])
def test_loss_and_gradients_equal_those_of_the_plain_formulation(joint, redundancy_weight, count):
    """With fewer and with more rows than outputs, 8: the two ways of `off_diagonal_squares`."""
    model = method(projection_dim=8, redundancy_weight=redundancy_weight, joint_views=joint)
    ours = model(views(count), PROGRESS)["loss"]
    weights = [weight for name, weight in model.named_parameters() if name != "projector.3.bias"]
    assert_same(ours, plain_loss(*projections(model, views(count)), redundancy_weight), weights)


def test_last_bias_changes_nothing():
    """The official code has none; the reference table's heads have one."""
    model = method()
    loss = model(views(), PROGRESS)["loss"]
    assert torch.autograd.grad(loss, model.projector[-1].bias)[0].abs().max() < 1e-10
    with torch.no_grad():
        model.projector[-1].bias.add_(torch.arange(16.0))
    torch.testing.assert_close(model(views(), PROGRESS)["loss"], loss, rtol=1e-9, atol=0)


def test_logged_terms_are_those_of_the_loss():
    """Without the weight of one of them the loss is the other; both grow with the number of outputs."""
    out = method(redundancy_weight=0.3)(views(), PROGRESS)
    torch.testing.assert_close(out["loss"].detach(), out["invariance"] + 0.3 * out["redundancy"])
    assert out["redundancy"] > 16 * 16 / 4 - 16 - 1, "four rows cannot give 16 outputs that are not correlated"


def test_loss_is_invariant_to_scale_and_shift_of_outputs():
    model = method()
    first, second = (torch.randn(8, 16, dtype=torch.float64) for _ in range(2))
    model._embed = lambda pixels: torch.cat((first, second))
    loss = model(views(), PROGRESS)["loss"]
    model._embed = lambda pixels: torch.cat((first * torch.linspace(1, 9, 16) + 5, second * 3))
    torch.testing.assert_close(model(views(), PROGRESS)["loss"], loss, rtol=1e-4, atol=0)


def test_loss_is_zero_for_identical_views_with_uncorrelated_outputs():
    model = method()
    signs = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64)
    model._embed = lambda pixels: torch.cat((signs, signs))
    assert model(views(), PROGRESS)["loss"].item() < 1e-9


def test_loss_depends_on_the_hyperparameters_of_a_recipe():
    config = read_recipe("digits/barlowtwins").make_method().config
    assert config.redundancy_weight == 0.1 and read_recipe("cifar10/barlowtwins").make_method().config.redundancy_weight == 0.005


def test_defaults_are_the_papers():
    config = BarlowTwinsConfig()
    assert (config.redundancy_weight, config.hidden_dim, config.hidden_layers, config.projection_dim) == (0.005, 8192, 2, 8192)
    assert 0.2 * config.norm_and_bias_lr == pytest.approx(0.0048)


def test_norms_and_biases_have_a_lower_learning_rate():
    model = read_recipe("digits/barlowtwins", {"norm_and_bias_lr": 0.024}).make_method()
    weights, others = model.parameter_groups()
    assert (weights.lr_factor, others.lr_factor, others.decay) == (1.0, 0.024, False)
    assert all(parameter.ndim > 1 for parameter in weights.parameters) and all(parameter.ndim == 1 for parameter in others.parameters)


@pytest.mark.parametrize(
    ("recipe", "parameters"),
    [("imagenet1k", 151_035_904), ("imagenet100", 9_447_424), ("imagenette", 9_447_424), ("cifar10", 5_249_024)],
)
def test_head_has_the_reference_tables_parameters(recipe, parameters):
    with torch.device("meta"):
        model = read_recipe(f"{recipe}/barlowtwins").make_method()
    assert sum(parameter.numel() for parameter in model.projector.parameters()) == parameters
    assert isinstance(model.projector[-1], torch.nn.Linear)


def test_views_are_byols_pair():
    views = list(BarlowTwins.views(224).values())
    for view in views:
        assert (view.count, view.size, view.scale, view.horizontal_flip) == (1, 224, (0.08, 1.0), 0.5)
        assert (view.brightness, view.contrast, view.saturation, view.hue, view.jitter) == (0.4, 0.4, 0.2, 0.1, 0.8)
        assert (view.grayscale, view.blur_sigma, view.solarize_first) == (0.2, (0.1, 2.0), False)
    assert [(view.blur, view.solarize) for view in views] == [(1.0, 0.0), (0.1, 0.2)]


@pytest.mark.slow
def test_training_beats_the_untrained_encoder(tmp_path):
    run = digits_run("digits/barlowtwins", tmp_path / "run", epochs=1)
    assert gain(run) > 0.08  # three seeds: 0.10 to 0.15
    assert penalty_for_other_images(run) > 8  # three seeds: 17 to 35; with the loss negated -782
