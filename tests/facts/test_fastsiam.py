"""FastSiam against its mean over views of the cosine to the mean of the others, row by row in float64."""

import pytest
import torch
from learning import digits_run, penalty_for_other_images

from sslzoo import FastSiam, FastSiamConfig
from sslzoo.method import Progress
from sslzoo.recipe import read_recipe

COUNT = 4
PROGRESS = Progress(0, 10, 0, 0, torch.arange(COUNT))


def method(**changes):
    torch.manual_seed(0)
    values = {"encoder": "res6", "image_size": 16, "hidden_dim": 32, "projection_dim": 16, "predictor_dim": 8, **changes}
    return FastSiam(FastSiamConfig(**values)).double().train()


def views(count=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(COUNT, 3, 16, 16, generator=generator, dtype=torch.float64) for _ in range(count)]


def plain_norm(rows, layer):
    centred = rows - rows.mean(dim=0)
    standard = centred / (centred.square().mean(dim=0) + 1e-5).sqrt()
    return standard * layer.weight + layer.bias if layer.affine else standard


def plain_mlp(rows, layers):
    """Linear layers, batch norms and ReLUs written out."""
    for layer in layers:
        if isinstance(layer, torch.nn.Linear):
            rows = rows @ layer.weight.T + (0 if layer.bias is None else layer.bias)
        else:
            rows = plain_norm(rows, layer) if isinstance(layer, torch.nn.BatchNorm1d) else rows.clamp(min=0)
    return rows


def plain_features(backbone, pixels):
    return backbone(pixel_values=pixels).last_hidden_state.mean(dim=(2, 3))


def plain_cosine(row, other):
    return row.dot(other) / (row.dot(row).sqrt() * other.dot(other).sqrt())


def plain_loss(model, pixels, joint):
    """The mean over views i of minus the cosine of p_i and the mean of z_j over all j but i, z without gradient."""

    def batches(network, inputs):
        return network(torch.cat(inputs)).chunk(len(inputs)) if joint else [network(one) for one in inputs]

    projected = batches(lambda images: plain_mlp(plain_features(model.backbone, images), model.projector), pixels)
    predictions = batches(lambda rows: plain_mlp(rows, model.predictor), list(projected))
    total = 0
    for i, prediction in enumerate(predictions):
        for image in range(COUNT):
            others = [projected[j][image].detach() for j in range(len(pixels)) if j != i]
            total = total - plain_cosine(prediction[image], sum(others) / len(others))
    return total / len(pixels) / COUNT


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize(
    "changes",
    [{}, {"joint_views": True}, {"last_affine": True, "hidden_layers": 1}],
    ids=lambda changes: next(iter(changes), "default"),
)
def test_loss_and_gradients_equal_those_of_the_plain_formulation(changes, count):
    model, pixels = method(**changes), views(count)
    ours, plain = model(pixels, PROGRESS)["loss"], plain_loss(model, pixels, model.config.joint_views)
    torch.testing.assert_close(ours, plain, rtol=1e-10, atol=0)
    weights = list(model.parameters())
    for found, expected in zip(torch.autograd.grad(ours, weights), torch.autograd.grad(plain, weights), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-10)


def hand_over(model, projections):
    """The loss for given projections of the views and an identity predictor."""
    rows = iter(projections)
    model.projector.forward = lambda _: next(rows)
    model.predictor.forward = lambda prediction: prediction
    return model(views(len(projections)), PROGRESS)["loss"].item()


def test_no_view_is_part_of_its_own_target():
    """Two views alike and a third at right angles: cosines 1 / sqrt 2, 1 / sqrt 2 and 0."""
    one, other = torch.eye(2, dtype=torch.float64)[:, None].expand(-1, COUNT, -1)
    assert hand_over(method(), [one, one, other]) == pytest.approx(-(2 * 0.5**0.5) / 3)


def test_target_is_the_mean_of_unnormalised_projections():
    """The longer of two projections counts for more: the three targets point to (1, 0), (1, 1) and (3, 1)."""
    one, other = torch.eye(2, dtype=torch.float64)[:, None].expand(-1, COUNT, -1)
    assert hand_over(method(), [other, 3 * one, one]) == pytest.approx(-(0 + 1 / 2**0.5 + 3 / 10**0.5) / 3)


def test_targets_have_a_stop_gradient():
    """Where the predictor passes no gradient, the projector gets none."""
    model = method()
    torch.nn.init.zeros_(model.predictor[-1].weight)
    model(views(), PROGRESS)["loss"].backward()
    assert not any(parameter.grad.any() for part in (model.backbone, model.projector) for parameter in part.parameters())
    assert model.predictor[-1].bias.grad.any()


@pytest.mark.parametrize(
    ("recipe", "projector"), [("imagenet100/fastsiam", 1_574_912), ("imagenette/fastsiam", 9_445_376), ("cifar10/fastsiam", 5_251_072)]
)
def test_recipes_have_the_reference_tables_heads(recipe, projector):
    with torch.device("meta"):
        model = read_recipe(recipe).make_method()
    assert sum(parameter.numel() for parameter in model.projector.parameters()) == projector
    assert sum(parameter.numel() for parameter in model.predictor.parameters()) == 2_100_224
    assert model.projector[-1].affine == recipe.startswith("cifar10")
    assert [view.count for view in read_recipe(recipe).make_views().values()] == [4]


def test_defaults_are_those_of_simsiam():
    """2048-2048-2048-2048, each with a norm, the last one without gain and bias; predictor 2048-512-2048."""
    with torch.device("meta"):
        model = FastSiam(FastSiamConfig())
    assert sum(parameter.numel() for parameter in model.projector.parameters()) == 3 * 2048 * 2048 + 2 * 2 * 2048
    assert sum(parameter.numel() for parameter in model.predictor.parameters()) == 2_100_224
    assert not model.projector[-1].affine and not model.config.joint_views


def test_views_are_four_of_the_same_kind():
    (view,) = FastSiam.views(224).values()
    assert (view.count, view.size, view.scale, view.horizontal_flip) == (4, 224, (0.2, 1.0), 0.5)
    assert (view.jitter, view.brightness, view.contrast, view.saturation, view.hue) == (0.8, 0.4, 0.4, 0.4, 0.1)
    assert (view.grayscale, view.blur, view.blur_sigma, view.solarize) == (0.2, 0.5, (0.1, 2.0), 0.0)


@pytest.mark.slow
def test_training_tells_images_apart(tmp_path):
    penalty = penalty_for_other_images(digits_run("digits/fastsiam", tmp_path / "run", epochs=1))
    assert penalty > 0.12  # three seeds: 0.24 to 0.25; untrained 0.00
