"""SimReg against the squared distance of normalised features in float64; its head by hand."""

import pytest
import torch
from learning import digits_run, digits_teacher, gain
from test_seed import plain_targets, unit, views
from tiny_teacher import MEAN, SIZE, STD, tiny_encoder

from sslzoo import SimReg, SimRegConfig
from sslzoo.method import Progress
from sslzoo.parts.distillation import FrozenTeacher

PROGRESS = Progress(0, 10, 0, 0, torch.arange(4))


def method():
    torch.manual_seed(0)
    model = SimReg(SimRegConfig(encoder="res6", image_size=16, teacher_dim=8))
    model.set_teacher(FrozenTeacher(tiny_encoder(8), mean=MEAN, std=STD, size=SIZE))
    return model.double().train()


def batch_norm(rows, norm):
    return (rows - rows.mean(0)) / (rows.var(0, unbiased=False) + norm.eps).sqrt() * norm.weight + norm.bias


def plain_loss(model, pixels):
    """The squared distance of prediction and target on the unit sphere, a mean over the images."""
    hidden = model.backbone(pixel_values=pixels).last_hidden_state.mean(dim=(2, 3))
    for first, norm, _, last in model.predictor:
        hidden = batch_norm(hidden @ first.weight.T, norm).clamp(min=0) @ last.weight.T + last.bias
    return (unit(hidden) - plain_targets(pixels)).square().sum(dim=1).mean()


def test_loss_and_gradients_equal_those_of_the_plain_formulation():
    model, (pixels,) = method(), views()
    found, expected = model([pixels], PROGRESS)["loss"], plain_loss(model, pixels)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    weights = list(model.parameters())
    for ours, plain in zip(torch.autograd.grad(found, weights), torch.autograd.grad(expected, weights), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-8)


def test_head_is_that_of_the_released_code():
    """Four layers, of twice and once the student's width in turn, and the teacher's at last."""
    with torch.device("meta"):
        model = SimReg(SimRegConfig(encoder="res18"))
    widths = [(layer.in_features, layer.out_features) for layer in model.predictor.modules() if isinstance(layer, torch.nn.Linear)]
    assert widths == [(512, 1024), (1024, 512), (512, 1024), (1024, 2048)]


def test_crop_keeps_its_colours():
    (view,) = SimReg.views(224).values()
    assert (view.count, view.scale, view.horizontal_flip, view.jitter, view.grayscale, view.blur) == (1, (0.2, 1.0), 0.5, 0, 0, 0)


@pytest.mark.slow
def test_training_beats_the_untrained_encoder(tmp_path):
    assert gain(digits_run("digits/simreg", tmp_path / "run", teacher=digits_teacher(), epochs=1)) > 0.05
