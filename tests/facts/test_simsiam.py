"""SimSiam against the paper's symmetric negative cosine, row by row in float64, and its predictor's learning rate."""

import pytest
import torch
from learning import digits_run, penalty_for_other_images

from sslzoo import SimSiam, SimSiamConfig
from sslzoo.method import Progress
from sslzoo.optim import OPTIMIZERS, make_optimizer, set_learning_rates
from sslzoo.recipe import read_recipe

COUNT = 4
PROGRESS = Progress(0, 10, 0, 0, torch.arange(COUNT))


def method(**changes):
    torch.manual_seed(0)
    values = {"encoder": "res6", "image_size": 16, "hidden_dim": 32, "projection_dim": 16, "predictor_dim": 8, **changes}
    return SimSiam(SimSiamConfig(**values)).double().train()


def views(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(COUNT, 3, 16, 16, generator=generator, dtype=torch.float64) for _ in range(2)]


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
    """D(p1, z2) / 2 + D(p2, z1) / 2, D minus the cosine, z without gradient."""

    def batches(network, inputs):
        return network(torch.cat(inputs)).chunk(2) if joint else [network(one) for one in inputs]

    z_1, z_2 = batches(lambda images: plain_mlp(plain_features(model.backbone, images), model.projector), pixels)
    p_1, p_2 = batches(lambda rows: plain_mlp(rows, model.predictor), [z_1, z_2])
    total = 0
    for prediction, target in ((p_1, z_2.detach()), (p_2, z_1.detach())):
        for row, other in zip(prediction, target, strict=True):
            total = total - plain_cosine(row, other) / COUNT / 2
    return total


@pytest.mark.parametrize(
    "changes",
    [{}, {"joint_views": True}, {"last_affine": True, "hidden_layers": 1}],
    ids=lambda changes: next(iter(changes), "default"),
)
def test_loss_and_gradients_equal_those_of_the_plain_formulation(changes):
    model, pixels = method(**changes), views()
    ours, plain = model(pixels, PROGRESS)["loss"], plain_loss(model, pixels, model.config.joint_views)
    torch.testing.assert_close(ours, plain, rtol=1e-10, atol=0)
    weights = list(model.parameters())
    for found, expected in zip(torch.autograd.grad(ours, weights), torch.autograd.grad(plain, weights), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-10)


def test_targets_have_a_stop_gradient():
    """Where the predictor passes no gradient, the projector gets none."""
    model = method()
    torch.nn.init.zeros_(model.predictor[-1].weight)
    model(views(), PROGRESS)["loss"].backward()
    assert not any(parameter.grad.any() for part in (model.backbone, model.projector) for parameter in part.parameters())
    assert model.predictor[-1].bias.grad.any()


def test_each_view_predicts_the_other_and_never_itself():
    model = method()
    seen = []
    model.projector.register_forward_hook(lambda module, arguments, out: seen.append(out.detach()))
    model.predictor.forward = lambda rows: rows
    loss = model(views(), PROGRESS)["loss"]
    cosines = [plain_cosine(*pair) for pair in zip(*seen, strict=True)]
    torch.testing.assert_close(loss, -sum(cosines) / COUNT)
    assert loss > -0.99, "a view with itself would give -1"


def predictor_moves(constant, factor, kind="sgd"):
    """How far the weights of predictor and projector move in a step at `factor` times the peak learning rate."""
    model = method(constant_predictor_lr=constant)
    optimizer = make_optimizer(model.parameter_groups(), kind, 0.0, 0.0, (0.9, 0.999), True)
    set_learning_rates(optimizer, 0.1, factor, 5)
    parts = (model.predictor, model.projector)
    before = [[parameter.clone() for parameter in part.parameters()] for part in parts]
    model(views(), PROGRESS)["loss"].backward()
    optimizer.step()
    return [
        sum((new - old).abs().sum().item() for new, old in zip(part.parameters(), olds, strict=True))
        for part, olds in zip(parts, before, strict=True)
    ]


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_only_the_predictor_has_a_constant_learning_rate(kind):
    full, constant, falling = predictor_moves(True, 1.0, kind), predictor_moves(True, 0.25, kind), predictor_moves(False, 0.25, kind)
    assert constant == pytest.approx([full[0], full[1] / 4], rel=1e-6)
    assert falling == pytest.approx([full[0] / 4, full[1] / 4], rel=1e-6)


def test_norms_and_biases_of_the_predictor_may_be_exempt_from_weight_decay_too():
    model = method()
    exempt = {id(parameter) for group in model.parameter_groups() if not group.decay for parameter in group.parameters}
    named = {name: id(parameter) in exempt for name, parameter in model.predictor.named_parameters()}
    assert named == {"0.weight": False, "1.weight": True, "1.bias": True, "3.weight": False, "3.bias": True}


@pytest.mark.parametrize(
    ("recipe", "projector"), [("imagenet100/simsiam", 1_574_912), ("imagenette/simsiam", 9_445_376), ("cifar10/simsiam", 5_251_072)]
)
def test_recipes_have_the_reference_tables_heads(recipe, projector):
    with torch.device("meta"):
        model = read_recipe(recipe).make_method()
    assert sum(parameter.numel() for parameter in model.projector.parameters()) == projector
    assert sum(parameter.numel() for parameter in model.predictor.parameters()) == 2_100_224
    assert model.projector[-1].affine == recipe.startswith("cifar10")
    assert not any(group.constant_lr for group in model.parameter_groups()), "which the table's runs did not do"


def test_defaults_are_the_papers():
    """2048-2048-2048-2048, each with a norm, the last one without gain and bias; predictor 2048-512-2048."""
    with torch.device("meta"):
        model = SimSiam(SimSiamConfig())
    assert sum(parameter.numel() for parameter in model.projector.parameters()) == 3 * 2048 * 2048 + 2 * 2 * 2048
    assert sum(parameter.numel() for parameter in model.predictor.parameters()) == 2_100_224
    assert isinstance(model.projector[-1], torch.nn.BatchNorm1d) and not model.projector[-1].affine
    assert model.config.constant_predictor_lr and not model.config.joint_views


def test_views_are_two_of_the_same_kind():
    (view,) = SimSiam.views(224).values()
    assert (view.count, view.size, view.scale, view.horizontal_flip) == (2, 224, (0.2, 1.0), 0.5)
    assert (view.jitter, view.brightness, view.contrast, view.saturation, view.hue) == (0.8, 0.4, 0.4, 0.4, 0.1)
    assert (view.grayscale, view.blur, view.blur_sigma, view.solarize) == (0.2, 0.5, (0.1, 2.0), 0.0)


@pytest.mark.slow
def test_training_tells_images_apart(tmp_path):
    penalty = penalty_for_other_images(digits_run("digits/simsiam", tmp_path / "run", epochs=1))
    assert penalty > 0.2  # three seeds: 0.34 to 0.42; untrained 0.00
