"""DCLW against equations 6 and 7 of the paper, written out row by row in float64."""

import pytest
import torch
from learning import digits_run, gain

from sslzoo import DCLW, DCLWConfig
from sslzoo.method import Progress
from sslzoo.recipe import read_recipe

PROGRESS = Progress(0, 10, 0, 0, torch.arange(4))


def method(**changes):
    torch.manual_seed(0)
    values = {"encoder": "res6", "image_size": 16, "hidden_dim": 32, "projection_dim": 16, **changes}
    return DCLW(DCLWConfig(**values)).double().train()


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


def plain_loss(first, second, temperature, sigma):
    """DCL whose positives weigh 2 - exp(c / sigma) / mean of exp(c / sigma), c their cosines: numbers without gradient."""
    total = 0
    for own, other in ((first, second), (second, first)):
        pulls = [torch.exp(cosine(row, partner) / sigma).item() for row, partner in zip(own, other, strict=True)]
        weights = [2 - pull / (sum(pulls) / len(pulls)) for pull in pulls]
        assert sum(weights) == pytest.approx(len(weights)), "the mean weight is 1"
        for i, row in enumerate(own):
            negatives = [
                torch.exp(cosine(row, candidate) / temperature)
                for view in (own, other) for j, candidate in enumerate(view) if j != i
            ]  # fmt: skip
            assert len(negatives) == 2 * len(own) - 2
            total = total - weights[i] * cosine(row, other[i]) / temperature + torch.log(sum(negatives))
    return total / (2 * len(first))


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize(("temperature", "sigma"), [(0.1, 0.5), (0.5, 0.5), (0.1, 0.2)])
def test_loss_and_gradients_equal_those_of_the_plain_formulation(joint, temperature, sigma):
    model = method(temperature=temperature, sigma=sigma, joint_views=joint)
    ours = model(views(), PROGRESS)["loss"]
    assert_same(ours, plain_loss(*projections(model, views()), temperature, sigma), list(model.parameters()))


def test_distant_positives_weigh_more():
    model = method(sigma=0.2)
    pairs = torch.eye(16, dtype=torch.float64)[:4]
    apart = pairs.clone()
    apart[0] = torch.eye(16, dtype=torch.float64)[8]
    cosines = torch.tensor([0.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    pulls = (cosines / 0.2).exp()
    weights = 2 - 4 * pulls / pulls.sum()
    assert weights[0] > 1.9 and (weights[1:] < 0.7).all(), "the test can tell"
    model._embed = lambda pixels: torch.cat((pairs, apart))
    unweighted = plain_loss(pairs, apart, 0.1, 1e6)
    expected = unweighted + (cosines - weights * cosines).mean() / 0.1
    torch.testing.assert_close(model(views(), PROGRESS)["loss"], expected, rtol=1e-5, atol=0)


def test_loss_depends_on_the_hyperparameters_of_a_recipe():
    config = read_recipe("cifar10/dclw").make_method().config
    assert (config.temperature, config.sigma) == (0.1, 0.5)


def test_defaults_are_the_papers():
    with torch.device("meta"):
        large = DCLW(DCLWConfig())
    assert (large.config.temperature, large.config.sigma) == (0.1, 0.5)
    assert sum(parameter.numel() for parameter in large.projector.parameters()) == 4_460_800
    assert isinstance(large.projector[-1], torch.nn.BatchNorm1d) and large.projector[-1].affine


@pytest.mark.parametrize(("image_size", "backbone"), [(128, 11_176_512), (32, 11_168_832)])
def test_head_of_the_small_sets(image_size, backbone):
    with torch.device("meta"):
        small = DCLW(DCLWConfig(encoder="res18", image_size=image_size, hidden_dim=512))
    assert sum(parameter.numel() for parameter in small.projector.parameters()) == 328_960
    assert sum(parameter.numel() for parameter in small.parameters()) == 328_960 + backbone


def test_views_are_simclrs():
    (view,) = DCLW.views(224).values()
    assert (view.count, view.size, view.scale, view.horizontal_flip) == (2, 224, (0.08, 1.0), 0.5)
    assert (view.brightness, view.contrast, view.saturation, view.hue, view.jitter) == (0.8, 0.8, 0.8, 0.2, 0.8)
    assert (view.grayscale, view.blur, view.blur_sigma, view.solarize) == (0.2, 0.5, (0.1, 2.0), 0.0)


@pytest.mark.slow
def test_training_beats_the_untrained_encoder(tmp_path):
    assert gain(digits_run("digits/dclw", tmp_path / "run", epochs=1)) > 0.1
