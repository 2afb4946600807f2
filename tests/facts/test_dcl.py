"""DCL against equation 6 of the paper, written out row by row in float64."""

import math

import pytest
import torch
from learning import digits_run, gain

from sslzoo import DCL, DCLConfig
from sslzoo.method import Progress
from sslzoo.recipe import read_recipe

PROGRESS = Progress(0, 10, 0, 0, torch.arange(4))


def method(**changes):
    torch.manual_seed(0)
    values = {"encoder": "res6", "image_size": 16, "hidden_dim": 32, "projection_dim": 16, **changes}
    return DCL(DCLConfig(**values)).double().train()


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


def cosine(first, second):
    return first.dot(second) / (first.dot(first) * second.dot(second)).sqrt()


def plain_loss(first, second, temperature):
    """Mean over all rows of -s(positive) + log of the sum of exp(s) over the rows of other images, s the cosine / temperature."""
    total = 0
    for own, other in ((first, second), (second, first)):
        for i, row in enumerate(own):
            negatives = [
                torch.exp(cosine(row, candidate) / temperature)
                for view in (own, other) for j, candidate in enumerate(view) if j != i
            ]  # fmt: skip
            assert len(negatives) == 2 * len(own) - 2
            total = total - cosine(row, other[i]) / temperature + torch.log(sum(negatives))
    return total / (2 * len(first))


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_loss_and_gradients_equal_those_of_the_plain_formulation(joint, temperature):
    model = method(temperature=temperature, joint_views=joint)
    ours = model(views(), PROGRESS)["loss"]
    assert_same(ours, plain_loss(*projections(model, views()), temperature), list(model.parameters()))


def test_loss_of_identical_rows_is_the_log_of_the_number_of_negatives():
    """All cosines are 1 there; with the positive among the candidates the loss would be log(9)."""
    model = method(temperature=0.5)
    torch.nn.init.zeros_(model.projector[-1].weight)
    torch.nn.init.ones_(model.projector[-1].bias)
    assert model(views(5), PROGRESS)["loss"].item() == pytest.approx(math.log(8), rel=1e-9)


def test_gradient_of_a_positive_does_not_shrink_as_it_gets_closer():
    """The purpose of decoupling: the gradient of a positive's cosine is -1 / temperature wherever it is."""
    model = method(temperature=0.2)
    first = torch.eye(16, dtype=torch.float64)[:4]
    second = first.clone().requires_grad_()
    model._embed = lambda pixels: torch.cat((first, second))
    model(views(), PROGRESS)["loss"].backward()
    # Both directions of each of 4 pairs, a mean over 8 rows, at right angles to what keeps its length: through the negatives alone.
    others = torch.ones(4, 4, dtype=torch.float64) - torch.eye(4, dtype=torch.float64)
    expected = torch.zeros(4, 16, dtype=torch.float64)
    expected[:, :4] = others * (2 / 6 + 2 / 6) / 0.2 / 8
    torch.testing.assert_close(second.grad, expected)


def test_loss_depends_on_the_hyperparameters_of_a_recipe():
    assert read_recipe("cifar10/dcl").make_method().config.temperature == 0.1
    losses = [method(temperature=value)(views(), PROGRESS)["loss"].item() for value in (0.1, 0.2)]
    assert losses[0] != pytest.approx(losses[1], rel=0.01)


def test_defaults_are_the_papers():
    with torch.device("meta"):
        large = DCL(DCLConfig())
    assert large.config.temperature == 0.1
    assert sum(parameter.numel() for parameter in large.projector.parameters()) == 4_460_800
    assert isinstance(large.projector[-1], torch.nn.BatchNorm1d) and large.projector[-1].affine


@pytest.mark.parametrize(("image_size", "backbone"), [(128, 11_176_512), (32, 11_168_832)])
def test_head_of_the_small_sets(image_size, backbone):
    with torch.device("meta"):
        small = DCL(DCLConfig(encoder="res18", image_size=image_size, hidden_dim=512))
    assert sum(parameter.numel() for parameter in small.projector.parameters()) == 328_960
    assert sum(parameter.numel() for parameter in small.parameters()) == 328_960 + backbone


def test_views_are_simclrs():
    (view,) = DCL.views(224).values()
    assert (view.count, view.size, view.scale, view.horizontal_flip) == (2, 224, (0.08, 1.0), 0.5)
    assert (view.brightness, view.contrast, view.saturation, view.hue, view.jitter) == (0.8, 0.8, 0.8, 0.2, 0.8)
    assert (view.grayscale, view.blur, view.blur_sigma, view.solarize) == (0.2, 0.5, (0.1, 2.0), 0.0)


@pytest.mark.slow
def test_training_beats_the_untrained_encoder(tmp_path):
    assert gain(digits_run("digits/dcl", tmp_path / "run", epochs=1)) > 0.1
