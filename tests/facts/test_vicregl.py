"""VICRegL against the paper's matches of places, written out image by image in float64."""

import math
from dataclasses import replace
from itertools import permutations

import pytest
import torch
from learning import digits_run, gain

from sslzoo import VICRegL, VICRegLConfig
from sslzoo.encoders import features_and_map
from sslzoo.method import Progress
from sslzoo.methods.vicregl import centers
from sslzoo.recipe import read_recipe
from sslzoo.views import Renderer, View

COUNT = 3
SIDE = 4  # of the encoder's map of 8 px


def crops():
    """Of odd sizes, so that no two places are as near; mirrored in both ways."""
    first = [[3, 17, 97, 61, 0, 1], [40, 2, 71, 83, 1, 0], [11, 29, 53, 47, 0, 0]]
    second = [[19, 5, 67, 103, 0, 0], [31, 13, 59, 89, 1, 1], [7, 37, 101, 43, 0, 1]]
    return [torch.tensor(first), torch.tensor(second)]


PROGRESS = Progress(0, 10, 0, 0, torch.arange(COUNT), crops)


def method(**changes):
    torch.manual_seed(0)
    values = {"encoder": "res6", "image_size": 16, "hidden_dim": 16, "projection_dim": 6, "local_dim": 4, "forward_matches": 9, **changes}
    return VICRegL(VICRegLConfig(**values)).double().train()


def views(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(COUNT, 3, 2 * SIDE, 2 * SIDE, generator=generator, dtype=torch.float64) for _ in range(2)]


def plain_vicreg(first, second, weights):
    """Of (n, d): invariance, and variance and covariance averaged over both."""
    count, width = first.shape
    total = weights[0] * ((first - second) ** 2).sum() / count / width
    for rows in (first, second):
        centred = rows - rows.mean(dim=0)
        covariance = centred.T @ centred / (count - 1)
        for i in range(width):
            total = total + weights[1] * torch.clamp(1 - (covariance[i, i] + 1e-4).sqrt(), min=0) / width / 2
            total = total + weights[2] * sum(covariance[i, j] ** 2 for j in range(width) if j != i) / width / 2
    return total


def plain_matches(points, others, count):
    """The `count` points nearest to one of the others, the nearest first, with that other: index pairs of one image."""
    found = []
    for i, point in enumerate(points.tolist()):
        distances = [math.dist(point, other) for other in others.tolist()]
        found.append((min(distances), i, distances.index(min(distances))))
    assert len({distance for distance, _, _ in found}) == len(found), "the test has no ties"
    return [(i, j) for _, i, j in sorted(found)[:count]]


def plain_one_way(rows, others, points, other_points, count, weights):
    matches = [plain_matches(points[n], other_points[n], count) for n in range(COUNT)]
    total = 0
    for place in range(count):
        chosen = torch.stack([rows[n, matches[n][place][0]] for n in range(COUNT)])
        matched = torch.stack([others[n, matches[n][place][1]] for n in range(COUNT)])
        total = total + plain_vicreg(chosen, matched, weights) / count
    return total


def plain_places(crops):
    """Row and column in the image of the centre of each cell of each crop."""
    places = []
    for top, left, height, width, flipped, mirrored in crops.tolist():
        rows = [top + height * (cell + 0.5) / SIDE for cell in range(SIDE)]
        columns = [left + width * (cell + 0.5) / SIDE for cell in range(SIDE)]
        rows, columns = rows[:: -1 if flipped else 1], columns[:: -1 if mirrored else 1]
        places.append([[row, column] for row in rows for column in columns])
    return torch.tensor(places, dtype=torch.float64)


def plain_parts(model, pixels, weights=(25, 25, 1)):
    """Global and local loss."""
    config = model.config

    def apart_or_joint(network, inputs):
        return network(torch.cat(inputs)).chunk(2) if config.joint_views else [network(one) for one in inputs]

    maps = apart_or_joint(lambda view: model.backbone(pixel_values=view).last_hidden_state, pixels)
    whole = apart_or_joint(model.projector, [view.mean(dim=(2, 3)) for view in maps])
    local = [
        torch.stack([
            torch.stack([model.local_projector(view[n, :, row, column]) for row in range(SIDE) for column in range(SIDE)])
            for n in range(COUNT)
        ])
        for view in maps
    ]  # fmt: skip
    places = [plain_places(crop) for crop in crops()]
    total, pairs = 0, 0
    for a, b in permutations(range(2), 2):
        pairs += 1
        for points in (local, places):
            there = plain_one_way(local[a], local[b], points[a], points[b], config.forward_matches, weights)
            back = plain_one_way(local[b], local[a], points[b], points[a], config.backward_matches, weights)
            total = total + (there + back) / 2
    return plain_vicreg(*whole, weights), total / pairs


@pytest.mark.parametrize(
    "changes", [{}, {"joint_views": False, "backward_matches": 2, "alpha": 0.4}, {"forward_matches": SIDE**2, "alpha": 0.0}], ids=str
)
def test_loss_and_gradients_equal_those_of_the_plain_formulation(changes):
    model = method(**changes)
    out = model(views(), PROGRESS)
    whole, local = plain_parts(model, views())
    alpha = changes.get("alpha", 0.75)
    plain = alpha * whole + (1 - alpha) * local
    torch.testing.assert_close(out["loss"], plain, rtol=1e-10, atol=0)
    torch.testing.assert_close((out["global_loss"], out["local_loss"]), (whole.detach(), local.detach()), rtol=1e-10, atol=0)
    weights = list(model.parameters())
    for found, expected in zip(torch.autograd.grad(out["loss"], weights), torch.autograd.grad(plain, weights), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("weights", [(3, 0, 0), (0, 3, 0), (0, 0, 3)], ids=str)
def test_loss_weights_apply_to_both_losses(weights):
    names = ("invariance_weight", "variance_weight", "covariance_weight")
    model = method(**dict(zip(names, weights, strict=True)))
    out = model(views(), PROGRESS)
    torch.testing.assert_close((out["global_loss"], out["local_loss"]), plain_parts(model, views(), weights), rtol=1e-10, atol=0)


def test_more_matches_than_places_use_all_places():
    losses = [method(forward_matches=many)(views(), PROGRESS)["loss"] for many in (SIDE**2, 49)]
    assert torch.equal(*losses)


def test_places_are_centres_of_cells():
    """left 10, width 80, four columns: 20, 40, 60, 80 from the left, and the other way round where mirrored."""
    plain = centers(torch.tensor([[0, 10, 100, 80, 0, 0]]), 2, 4)
    assert plain.tolist() == [[[25, 20], [25, 40], [25, 60], [25, 80], [75, 20], [75, 40], [75, 60], [75, 80]]]
    mirrored = centers(torch.tensor([[0, 10, 100, 80, 0, 1], [0, 10, 100, 80, 1, 0]]), 2, 4)
    assert mirrored[0].tolist() == [[25, 80], [25, 60], [25, 40], [25, 20], [75, 80], [75, 60], [75, 40], [75, 20]]
    assert mirrored[1].tolist() == [[75, 20], [75, 40], [75, 60], [75, 80], [25, 20], [25, 40], [25, 60], [25, 80]]


def test_places_match_the_rendered_crops():
    """Images whose red is the row and whose green is the column: each cell of a view shows, on average, where its centre was."""
    line = torch.arange(200, dtype=torch.uint8)
    pixels = torch.stack([line[:, None].expand(200, 200), line.expand(200, 200), torch.zeros(200, 200, dtype=torch.uint8)])
    pixels = pixels.expand(16, -1, -1, -1).contiguous()
    sizes, samples = torch.full((16, 2), 200), torch.arange(16)
    renderer = Renderer([View(64, scale=(0.2, 0.8), vertical_flip=0.5)], seed=0)
    (view,), (crop,) = renderer(pixels, sizes, samples, 0), renderer.crops(sizes, samples, renderer.words(0))
    assert {tuple(flips) for flips in crop[:, 4:].tolist()} == {(0, 0), (0, 1), (1, 0), (1, 1)}
    shown = view * torch.tensor([0.229, 0.224, 0.225])[:, None, None] + torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    shown = 255 * torch.nn.functional.avg_pool2d(shown[:, :2], 64 // SIDE).flatten(2).mT
    # A pixel's number is that of its left edge, half a pixel from its centre.
    torch.testing.assert_close(shown + 0.5, centers(crop, SIDE, SIDE), rtol=0, atol=0.5)


def test_different_crops_match_different_places():
    losses = [method()(views(), replace(PROGRESS, crops=given))["loss"] for given in (crops, lambda: crops()[::-1])]
    assert losses[0] != losses[1]


def test_a_place_matches_its_nearest_and_gradients_reach_both():
    model = method(forward_matches=1, backward_matches=1, variance_weight=0, covariance_weight=0, invariance_weight=1)
    first = torch.tensor([[0.0, 0.0], [5.0, 0.0]], dtype=torch.float64).repeat(2, 1, 1).requires_grad_()
    second = torch.tensor([[9.0, 0.0], [5.0, 1.0]], dtype=torch.float64).repeat(2, 1, 1).requires_grad_()
    # Row 1 of the first is nearest to row 1 of the second, 1 apart in one of two columns; the two images are alike.
    loss = model._matched(first, second, first, second)
    assert loss.item() == pytest.approx(0.5)
    loss.backward()
    assert first.grad.tolist() == [[[0, 0], [0, -0.5]]] * 2 and second.grad.tolist() == [[[0, 0], [0, 0.5]]] * 2


def test_loss_depends_on_the_hyperparameters_of_a_recipe():
    config = read_recipe("imagenette/vicregl").method_config()
    assert (config.alpha, config.forward_matches, config.backward_matches) == (0.75, 16, 4)


def test_defaults_are_the_papers():
    config = VICRegLConfig()
    assert (config.alpha, config.forward_matches, config.backward_matches) == (0.75, 20, 4)
    assert (config.invariance_weight, config.variance_weight, config.covariance_weight) == (25, 25, 1)
    assert (config.hidden_dim, config.projection_dim, config.local_dim) == (8192, 8192, 512)


def test_heads_have_the_reference_tables_parameters():
    with torch.device("meta"):
        model = read_recipe("imagenette/vicregl").make_method()
    assert sum(parameter.numel() for parameter in model.projector.parameters()) == 9_447_424
    assert sum(parameter.numel() for parameter in model.local_projector.parameters()) == 98_944


def test_places_of_a_vit_are_its_patches_and_its_features_the_class_token():
    model = method(encoder="vit-xs4", image_size=2 * SIDE).eval()
    pooled, maps = features_and_map(model.backbone, views()[0])
    tokens = model.backbone(views()[0]).last_hidden_state
    assert torch.equal(pooled, tokens[:, 0]) and maps.shape[1:] == (64, 2, 2)
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        assert torch.equal(maps[:, :, row, column], tokens[:, 1 + 2 * row + column])
    assert model(views(), PROGRESS)["loss"].isfinite()


def test_views_are_two_of_the_same_kind():
    (view,) = VICRegL.views(224).values()
    assert (view.count, view.size, view.scale, view.horizontal_flip, view.vertical_flip) == (2, 224, (0.2, 1.0), 0.5, 0.0)
    assert (view.brightness, view.contrast, view.saturation, view.hue, view.jitter) == (0.4, 0.4, 0.2, 0.1, 1.0)
    assert (view.grayscale, view.blur, view.solarize) == (0.2, 0.5, 0.0)


@pytest.mark.slow
def test_training_beats_the_untrained_encoder(tmp_path):
    assert gain(digits_run("digits/vicregl", tmp_path / "run", epochs=1)) > 0.08
