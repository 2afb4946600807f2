"""Five methods, three optimiser steps each: their losses are stored, so a change that moves any number fails here.

Everything from the crop to the weights is computed in float64, in which machines differ by far less than the tolerance. After a change that
is meant to move numbers, copy the losses that the failing test prints.
"""

import pytest
import torch

from sslzoo import method_class
from sslzoo.method import Progress
from sslzoo.optim import make_optimizer, set_learning_rates
from sslzoo.views import Renderer, draws, render

SIZE, BATCH, STEPS, SEED = 16, 6, 3, 3
HEIGHT, WIDTH = 24, 20  # px of the images

# Each method with hyper-parameters that a test can pay for, and its losses. Contrastive; EMA teacher; queue; masked; prototypes.
REFERENCE = {
    "simclr": (
        {"hidden_dim": 64},
        [4.847084387324678, 6.913042977147865, 8.131677071360455],
    ),
    "dino": (
        {"hidden_dim": 64, "prototypes": 64},
        [3.6038049994975934, 0.08736179002591514, 0.007975319003900475],
    ),
    "mocov2": (
        {"hidden_dim": 64, "queue_length": 64},
        [0.6348086112770563, 2.2933809895184263, 2.7637418679069197],
    ),
    "mae": (
        {"encoder": "vit-xs4", "decoder_dim": 64, "decoder_depth": 2, "decoder_heads": 4},
        [2.396751431719303, 2.274040801845614, 1.9728677269539008],
    ),
    "swav": (
        {"hidden_dim": 64, "prototypes": 64, "queue_length": 64, "queue_from_epoch": 0},
        [4.194487419719225, 4.1209653165808895, 4.231347905057726],
    ),
}


@pytest.fixture(autouse=True)
def everything_in_float64(monkeypatch):
    """Weights are drawn, views rendered and losses computed in float64."""
    uniform = draws.uniform
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    monkeypatch.setattr(render, "to_canvas", torch.Tensor.double)
    monkeypatch.setattr(draws, "uniform", lambda *key: uniform(*key).double())
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.parametrize("name", REFERENCE)
def test_losses_of_three_steps_are_the_stored_ones(name):
    changes, expected = REFERENCE[name]
    losses = train(name, changes)
    assert losses == pytest.approx(expected, rel=0, abs=1e-9), f"{name}: {losses}"


def train(name, changes):
    """The losses of the steps, on made images through the method's own views."""
    torch.manual_seed(SEED)
    method = method_class(name)(method_class(name).config_class(**{"encoder": "res6", "image_size": SIZE, **changes})).train()
    renderer = Renderer(list(method.views(SIZE).values()), SEED)
    images, sizes = made_images(), torch.tensor([[HEIGHT, WIDTH]]).expand(BATCH, 2)
    optimizer = make_optimizer(method.parameter_groups(), "sgd", 1e-4, 0.9, (0.9, 0.999), True)
    losses = []
    for step in range(STEPS):
        # An epoch per step: DINO's and SwAV's prototypes stay as they are in the first.
        set_learning_rates(optimizer, 0.003, 1.0, step)
        samples = torch.arange(BATCH) + step * BATCH
        out = method(renderer(images[samples], sizes, samples, step), Progress(step, STEPS, step, SEED, samples))
        out["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            method.after_step({key: value.detach() for key, value in out.items() if value.ndim}, Progress(step, STEPS, step, SEED, samples))
        assert out["loss"].dtype == torch.float64
        losses.append(out["loss"].item())
    return losses


def made_images():
    """Waves of each image's own frequencies and colours, uint8 (n, 3, HEIGHT, WIDTH)."""
    image = torch.arange(BATCH * STEPS)[:, None, None, None]
    channel, row, column = torch.arange(3)[:, None, None], torch.arange(HEIGHT)[:, None], torch.arange(WIDTH)
    return ((image + 1) * row * 7 + (image % 4 + 1) * column * 11 + (channel + 1) * (image + 3) * 29).remainder(256).to(torch.uint8)
