"""MoCo v3 against the paper's loss in float64; its momentum encoder, heads and initialisation by hand."""

import math

import pytest
import torch
from learning import digits_run, penalty_for_other_images
from torch import nn

from sslzoo import MoCoV3, MoCoV3Config
from sslzoo.encoders import embedding_parts
from sslzoo.method import Progress
from sslzoo.methods import mocov3
from sslzoo.methods.mocov3 import contrast
from sslzoo.optim import make_optimizer, set_learning_rates
from sslzoo.parts.positions import sincos_positions
from sslzoo.recipe import read_recipe

COUNT = 4


def progress(step=0, steps=100):
    return Progress(step, steps, 0, 0, torch.arange(COUNT))


def method(encoder="vit-xs4", **changes):
    torch.manual_seed(0)
    return MoCoV3(MoCoV3Config(encoder=encoder, image_size=16, **{"hidden_dim": 32, "projection_dim": 8, **changes})).double().train()


def views(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(COUNT, 3, 16, 16, generator=generator, dtype=torch.float64) for _ in range(2)]


def plain_norm(rows, weight=1.0, bias=0.0):
    return (rows - rows.mean(0)) / (rows.var(0, correction=0) + 1e-5).sqrt() * weight + bias


def plain_head(head, rows):
    """Linear layers without biases, each but the last with batch norm and ReLU."""
    linear = [layer for layer in head if isinstance(layer, nn.Linear)]
    norms = [layer for layer in head if isinstance(layer, nn.BatchNorm1d)]
    for index, layer in enumerate(linear):
        rows = rows @ layer.weight.T
        if index < len(linear) - 1:
            rows = plain_norm(rows, norms[index].weight, norms[index].bias).clamp(min=0)
    return plain_norm(rows) if len(norms) == len(linear) else rows


def plain_rows(model, pixels, network):
    tokens = network.backbone(pixel_values=torch.cat(pixels)).last_hidden_state
    pooled = tokens.mean(dim=(2, 3)) if tokens.ndim == 4 else tokens[:, 0]
    rows = plain_head(network.projector, pooled)
    if network is model.query:
        rows = plain_head(model.predictor, rows)
    return (rows / rows.square().sum(1, keepdim=True).sqrt()).chunk(2)


def plain_loss(model, pixels):
    """ctr(q1, k2) + ctr(q2, k1), with ctr = -2 t log(exp(q.k / t) / sum over all keys of exp(q.k' / t))."""
    temperature, total = model.config.temperature, 0
    queries, keys = plain_rows(model, pixels, model.query), [key.detach() for key in plain_rows(model, pixels, model.key)]
    for query_rows, key_rows in ((queries[0], keys[1]), (queries[1], keys[0])):
        for own, query in enumerate(query_rows):
            similarities = [torch.exp(query.dot(key) / temperature) for key in key_rows]
            total = total - 2 * temperature * torch.log(similarities[own] / sum(similarities)) / COUNT
    return total


@pytest.mark.parametrize(
    "changes", [{}, {"temperature": 0.5}, {"encoder": "res6", "hidden_layers": 1, "predictor_norm": False, "temperature": 1.0}]
)
def test_loss_and_gradients_equal_those_of_the_plain_formulation(changes):
    model = method(**changes)
    with torch.no_grad():
        for parameter in model.key.projector.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    found, expected = model(views(), progress())["loss"], plain_loss(model, views())
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for ours, plain in zip(torch.autograd.grad(found, weights), torch.autograd.grad(expected, weights), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-6, atol=1e-9)


def test_reference_value():
    """METHODS_BEYOND.md, 15.1: x(a) = sin(0.7 i + a) + 0.1 j; queries x(0), x(1), keys x(2), x(3), temperature 0.2."""
    index = torch.arange(32, dtype=torch.float64)
    rows = [(torch.sin(0.7 * index + a) + 0.1 * (index % 8)).view(4, 8).float() for a in range(4)]
    first, second, first_keys, second_keys = (nn.functional.normalize(each, dim=1) for each in rows)
    loss = contrast(first, second_keys, 0.2) + contrast(second, first_keys, 0.2)
    assert float(loss) == pytest.approx(2.738307, abs=1e-6)


def test_negatives_are_the_keys_of_all_devices(monkeypatch):
    """The second of two devices sees what one device with both batches does for its own rows."""
    generator = torch.Generator().manual_seed(0)
    queries, keys = (nn.functional.normalize(torch.randn(6, 8, generator=generator), dim=1) for _ in range(2))
    whole = contrast(queries, keys, 0.2)
    parts = []
    for device in (0, 1):
        monkeypatch.setattr(mocov3, "gather", lambda rows: keys)
        monkeypatch.setattr(mocov3, "rank", lambda device=device: device)
        parts.append(contrast(queries[3 * device :][:3], keys[3 * device :][:3], 0.2))
    torch.testing.assert_close(torch.stack(parts).mean(), whole)


def test_no_gradient_reaches_a_momentum_encoder_that_requires_one():
    model = method()
    model.key.requires_grad_(True)
    model(views(), progress())["loss"].backward()
    assert all(parameter.grad is None for parameter in model.key.parameters())


def test_keys_of_a_step_are_of_the_encoder_moved_before_it():
    """Step 1: of the initial network, which the momentum leaves alone; step 2: moved towards the weights after step 1, by its momentum."""
    model = method(teacher_momentum=0.9)
    start = {name: value.clone() for name, value in model.query.named_parameters()}
    assert all(torch.equal(value, start[name]) for name, value in model.key.named_parameters())
    optimizer = make_optimizer(model.parameter_groups(), "sgd", 0.0, 0.9, (0.9, 0.999), True)
    set_learning_rates(optimizer, 0.1, 1.0, 1)
    model(views(), progress(0))["loss"].backward()
    optimizer.step()
    moved = {name: value.clone() for name, value in model.query.named_parameters()}
    model.after_step({}, progress(0))
    momentum = 1 - (1 + math.cos(math.pi * 1 / 100)) / 2 * (1 - 0.9)  # of step 1 of 0 to 99
    for name, value in model.key.named_parameters():
        torch.testing.assert_close(value.detach(), momentum * start[name] + (1 - momentum) * moved[name])
    before = [value.clone() for value in model.key.parameters()]
    model.after_step({}, progress(99))
    assert all(torch.equal(value, kept) for value, kept in zip(model.key.parameters(), before, strict=True)), "momentum 1 at the end"


def test_patch_projection_is_frozen_equal_in_both_and_saved(tmp_path):
    model = method()
    query, key = (embedding_parts(network.backbone) for network in (model.query, model.key))
    start = query.projection.weight.clone()
    assert not query.projection.weight.requires_grad and not query.projection.bias.requires_grad and not query.positions.requires_grad
    grouped = {id(parameter) for group in model.parameter_groups() for parameter in group.parameters}
    assert id(query.projection.weight) not in grouped
    model.after_step({}, progress())
    assert torch.equal(query.projection.weight, start) and torch.equal(key.projection.weight, start)
    names = model.state_dict()
    for branch in ("query", "key"):
        assert torch.equal(names[f"{branch}.backbone.embeddings.patch_embeddings.projection.weight"], start)


def test_transformer_starts_as_in_the_paper():
    """Bounds of Xavier's uniform distribution: sqrt(6 / (inputs + outputs)), for the patches' convolution of 3 * 4 * 4 inputs."""
    backbone = method().encoder
    parts = embedding_parts(backbone)
    for name, parameter in backbone.named_parameters():
        if name.endswith("weight") and parameter.ndim == 2:
            bound = math.sqrt(6 / sum(parameter.shape))
            assert 0.97 * bound < float(parameter.detach().abs().max()) <= bound, name
        if name.endswith("bias"):
            assert not parameter.any(), name
    assert 0.97 < float(parts.projection.weight.abs().max()) / math.sqrt(6 / (48 + 64)) <= 1
    assert float(parts.class_token.detach().abs().max()) < 1e-5 and parts.class_token.any()
    torch.testing.assert_close(parts.positions.float(), sincos_positions(64, 4))


@pytest.mark.parametrize(
    ("encoder", "changes", "projector", "predictor"),
    [
        ("vit-s16-h12", {}, 19_415_040, 2_105_344), ("vit-b16", {}, 20_987_904, 2_105_344),
        ("res50", {"hidden_layers": 1, "predictor_norm": False}, 9_445_376, 2_105_344),
    ],
)  # fmt: skip
def test_heads_have_the_papers_parameters_and_no_bias(encoder, changes, projector, predictor):
    with torch.device("meta"):
        model = MoCoV3(MoCoV3Config(encoder=encoder, image_size=224, **changes))
    assert sum(parameter.numel() for parameter in model.query.projector.parameters()) == projector
    assert sum(parameter.numel() for parameter in model.predictor.parameters()) == predictor
    for head in (model.query.projector, model.predictor):
        assert all(layer.bias is None for layer in head if isinstance(layer, nn.Linear))
    assert not hasattr(model.key, "predictor") and model.encoder is model.query.backbone


def test_its_vit_s_has_twelve_heads_of_width_32():
    config = MoCoV3Config().encoder
    assert (config.hidden_size, config.num_attention_heads, config.patch_size, config.image_size) == (384, 12, 16, 224)


def test_batch_norms_see_views_by_themselves_in_the_papers_recipes():
    """And their values are the paper's: learning rates of both encoders at a batch of 4096, views, decay of all weights of the ViT."""
    vit, res50 = (read_recipe(f"imagenet1k/{name}") for name in ("mocov3", "mocov3-res50"))
    assert not vit.method_config().joint_views and not res50.method_config().joint_views
    assert (vit.lr, vit.weight_decay, vit.decay_norm_and_bias, vit.warmup_epochs, vit.epochs) == (1.5e-4, 0.1, True, 40, 300)
    assert (res50.lr, res50.weight_decay, res50.decay_norm_and_bias, res50.method_config().temperature) == (0.6, 1e-6, False, 1.0)
    assert [view.scale for view in vit.make_views().values()] == [(0.08, 1.0)] * 2
    assert [view.scale for view in res50.make_views().values()] == [(0.2, 1.0)] * 2


def test_defaults_are_the_papers():
    config = MoCoV3Config()
    assert (config.temperature, config.teacher_momentum, config.teacher_momentum_end, config.hidden_dim) == (0.2, 0.99, 1.0, 4096)
    first, second = MoCoV3.views(224).values()
    assert (first.blur, second.blur, first.solarize, second.solarize) == (1.0, 0.1, 0.0, 0.2)
    for view in (first, second):
        assert (view.brightness, view.contrast, view.saturation, view.hue, view.jitter) == (0.4, 0.4, 0.2, 0.1, 0.8)
        assert (view.grayscale, view.horizontal_flip, view.blur_sigma, view.interpolation) == (0.2, 0.5, (0.1, 2.0), "bilinear")


@pytest.mark.slow
def test_training_tells_images_apart(tmp_path):
    penalty = penalty_for_other_images(digits_run("digits/mocov3", tmp_path / "run", epochs=1))
    assert penalty > 0.35  # three seeds: 0.63 to 0.66; untrained up to 0.02
