"""SimCLR against equation 1 of the paper, written out row by row in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from learning import digits_run, gain

from sslzoo import SimCLR, SimCLRConfig
from sslzoo.method import Progress

PROGRESS = Progress(0, 10, 0, 0, torch.arange(4))


def method(**changes):
    torch.manual_seed(0)
    values = {"encoder": "res6", "image_size": 16, "hidden_dim": 32, "projection_dim": 16, **changes}
    return SimCLR(SimCLRConfig(**values)).double().train()


def views(count=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(count, 3, 16, 16, generator=generator, dtype=torch.float64) for _ in range(2)]


def plain_loss(first, second, temperature):
    """Mean over all rows i of -log(exp(s(i, its other view)) / sum over all other rows k of exp(s(i, k))), s the cosine / temperature."""
    rows = [*first, *second]
    images = [*range(len(first)), *range(len(second))]
    total = 0
    for i, row in enumerate(rows):
        candidates = {}
        for k, other in enumerate(rows):
            if k != i:
                candidates[k] = torch.exp(row.dot(other) / (row.dot(row).sqrt() * other.dot(other).sqrt()) / temperature)
        (positive,) = (k for k in candidates if images[k] == images[i])
        total = total - torch.log(candidates[positive] / sum(candidates.values()))
    return total / len(rows)


def plain_method_loss(model, pixels, temperature, joint):
    """The paper's network: the encoder's pooled map, then linear, norm, ReLU, linear, norm; batch norms written out."""

    def norm(rows, layer):
        centred = rows - rows.mean(dim=0)
        return centred / (centred.square().mean(dim=0) + 1e-5).sqrt() * layer.weight + layer.bias

    def project(images):
        hidden = model.backbone(pixel_values=images).last_hidden_state.mean(dim=(2, 3))
        linear_1, norm_1, _, linear_2, norm_2 = model.projector
        return norm(norm(hidden @ linear_1.weight.T, norm_1).clamp(min=0) @ linear_2.weight.T, norm_2)

    projected = project(torch.cat(pixels)).chunk(2) if joint else [project(one) for one in pixels]
    return plain_loss(*projected, temperature)


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_loss_and_gradients_equal_those_of_the_plain_formulation(joint, temperature):
    model = method(temperature=temperature, joint_views=joint)
    ours = model(views(), PROGRESS)["loss"]
    plain = plain_method_loss(model, views(), temperature, joint)
    torch.testing.assert_close(ours, plain, rtol=1e-10, atol=0)
    weights = list(model.parameters())
    for found, expected in zip(torch.autograd.grad(ours, weights), torch.autograd.grad(plain, weights), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-10)


def test_joint_views_share_batch_statistics():
    losses = [method(joint_views=joint)(views(), PROGRESS)["loss"].item() for joint in (True, False)]
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)


def test_positives_are_the_two_views_of_one_image():
    model = method()
    first, _ = views(8)
    right = model([first, first], PROGRESS)["loss"]
    assert model([first, first.roll(1, dims=0)], PROGRESS)["loss"] > right + 1


def test_loss_of_identical_rows_is_the_log_of_the_number_of_candidates():
    """Where all rows are equal, the positive is one of 2n - 1 equal candidates."""
    model = method()
    torch.nn.init.zeros_(model.projector[-1].weight)
    torch.nn.init.ones_(model.projector[-1].bias)
    assert model(views(5), PROGRESS)["loss"].item() == pytest.approx(math.log(9), rel=1e-9)


def test_defaults_are_the_papers():
    with torch.device("meta"):
        large = SimCLR(SimCLRConfig())
    assert large.config.temperature == 0.1
    assert sum(parameter.numel() for parameter in large.projector.parameters()) == 4_460_800
    assert sum(parameter.numel() for parameter in large.backbone.parameters()) == 23_508_032
    assert isinstance(large.projector[-1], torch.nn.BatchNorm1d) and large.projector[-1].affine


@pytest.mark.parametrize(("image_size", "backbone"), [(128, 11_176_512), (32, 11_168_832)])
def test_head_of_the_small_sets(image_size, backbone):
    with torch.device("meta"):
        small = SimCLR(SimCLRConfig(encoder="res18", image_size=image_size, hidden_dim=512))
    assert sum(parameter.numel() for parameter in small.projector.parameters()) == 328_960
    assert sum(parameter.numel() for parameter in small.parameters()) == 328_960 + backbone


def test_views_are_two_of_the_same_kind_with_the_papers_colours():
    (view,) = SimCLR.views(224).values()
    assert (view.count, view.size, view.scale, view.horizontal_flip) == (2, 224, (0.08, 1.0), 0.5)
    assert (view.brightness, view.contrast, view.saturation, view.hue, view.jitter) == (0.8, 0.8, 0.8, 0.2, 0.8)
    assert (view.grayscale, view.blur, view.solarize) == (0.2, 0.5, 0.0)


def test_encoder_is_the_backbone_without_the_projector():
    model = method().eval()
    with torch.no_grad():
        pixels = views()[0]
        assert torch.equal(model.encoder(pixel_values=pixels).pooler_output, model.backbone(pixel_values=pixels).pooler_output)
    assert not any("projector" in name for name, _ in model.encoder.named_parameters())


def test_plain_loss_equals_the_value_by_hand():
    """For two images: four rows, each with one positive and two negatives."""
    first, second = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    rows = F.normalize(torch.cat([first, second]), dim=1)
    others = [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]
    logits = torch.stack([rows[i] @ rows[those].T for i, those in enumerate(others)]) / 0.3
    torch.testing.assert_close(plain_loss(first, second, 0.3), F.cross_entropy(logits, torch.tensor([1, 2, 0, 1])))


@pytest.mark.slow
def test_training_beats_the_untrained_encoder(tmp_path):
    assert gain(digits_run("digits/simclr", tmp_path / "run", epochs=1)) > 0.12
