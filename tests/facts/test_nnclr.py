"""NNCLR against the paper's loss with loops over neighbours and candidates, in float64, and its queue by hand."""

import pytest
import torch
from learning import digits_run, penalty_for_other_images

from sslzoo import NNCLR, NNCLRConfig
from sslzoo.method import Progress

COUNT = 4


def progress(step=0, steps=101, epoch=0):
    return Progress(step, steps, epoch, 0, torch.arange(COUNT))


def method(**changes):
    torch.manual_seed(0)
    sizes = {"hidden_dim": 32, "projection_dim": 8, "prediction_dim": 24, "queue_length": 12}
    return NNCLR(NNCLRConfig(**{"encoder": "res6", "image_size": 16, **sizes, **changes})).double().train()


def views(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(COUNT, 3, 16, 16, generator=generator, dtype=torch.float64) for _ in range(2)]


def plain_mlp(rows, layers):
    """Layer by layer, batch norms written out."""
    for layer in layers:
        if isinstance(layer, torch.nn.Linear):
            rows = rows @ layer.weight.T + (0 if layer.bias is None else layer.bias)
        elif isinstance(layer, torch.nn.BatchNorm1d):
            centred = rows - rows.mean(dim=0)
            rows = centred / (centred.square().mean(dim=0) + 1e-5).sqrt() * layer.weight + layer.bias
        else:
            rows = rows.clamp(min=0)
    return rows


def plain_rows(model, pixels, joint):
    """Projections and predictions of both views, each row divided by its length."""
    batches = [torch.cat(pixels)] if joint else pixels
    projections, predictions = [], []
    for batch in batches:
        hidden = plain_mlp(model.backbone(pixel_values=batch).last_hidden_state.mean(dim=(2, 3)), model.projector)
        for found, rows in ((projections, hidden), (predictions, plain_mlp(hidden, model.predictor))):
            found += [row / row.square().sum().sqrt() for row in rows]
    return [(rows[:COUNT], rows[COUNT:]) for rows in (projections, predictions)]


def nearest(row, queue):
    return max(queue, key=lambda other: float(row.dot(other)))


def plain_loss(neighbors, predictions, temperature):
    """Each neighbour finds its prediction among all predictions, and each prediction its neighbour among all neighbours."""
    total = 0
    for i in range(COUNT):
        right = torch.exp(neighbors[i].dot(predictions[i]) / temperature)
        total = total - torch.log(right / sum(torch.exp(neighbors[i].dot(prediction) / temperature) for prediction in predictions)) / 2
        total = total - torch.log(right / sum(torch.exp(neighbor.dot(predictions[i]) / temperature) for neighbor in neighbors)) / 2
    return total / COUNT


@pytest.mark.parametrize(
    "changes", [{}, {"joint_views": False}, {"hidden_layers": 1}, {"temperature": 0.5}], ids=lambda changes: next(iter(changes), "default")
)
def test_loss_and_gradients_equal_those_of_the_plain_formulation(changes):
    model, pixels = method(**changes), views()
    ours = model(pixels, progress())["loss"]
    projections, predictions = plain_rows(model, pixels, model.config.joint_views)
    neighbors = [[nearest(row.detach(), model.queue.rows) for row in rows] for rows in projections]
    assert len({tuple(row.tolist()) for rows in neighbors for row in rows}) > 2, "the test can tell"
    temperature = changes.get("temperature", 0.1)
    plain = (plain_loss(neighbors[0], predictions[1], temperature) + plain_loss(neighbors[1], predictions[0], temperature)) / 2
    torch.testing.assert_close(ours, plain, rtol=1e-10, atol=0)
    weights = list(model.parameters())
    for found, expected in zip(torch.autograd.grad(ours, weights), torch.autograd.grad(plain, weights), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-10)


def test_neighbors_come_from_the_queue_before_this_step():
    """A row is its own nearest neighbour as soon as it is in the queue."""
    model, pixels = method(), views()
    before = model.queue.rows.clone()
    out = model(pixels, progress())
    assert torch.equal(model.queue.rows, before)
    model.after_step({"embeddings": out["embeddings"]}, progress())
    neighbors = model._nearest_neighbors(out["embeddings"])
    torch.testing.assert_close(neighbors, out["embeddings"])
    assert (model(pixels, progress())["loss"] - out["loss"]).abs() > 1e-3


def test_queue_after_two_steps_by_hand():
    """Only the first view's normalised projections replace the oldest rows."""
    model = method(queue_length=6)
    queue = model.queue.rows.clone()
    for step, places in ((0, [0, 1, 2, 3]), (1, [4, 5, 0, 1])):
        pixels = views(seed=step)
        (first, _), _ = plain_rows(model, pixels, True)
        out = model(pixels, progress(step))
        assert not out["embeddings"].requires_grad
        model.after_step({"embeddings": out["embeddings"]}, progress(step))
        for place, row in zip(places, first, strict=True):
            queue[place] = row.detach()
        torch.testing.assert_close(model.queue.rows, queue)


def test_neighbors_have_a_stop_gradient():
    """The projections get gradient only through the predictor: with a constant predictor they get none."""
    model = method()
    with torch.no_grad():
        model.predictor[-1].weight.zero_()
        model.predictor[-1].bias.fill_(1.0)
    model(views(), progress())["loss"].backward()
    assert all(parameter.grad.abs().max() == 0 for parameter in model.projector.parameters())


@pytest.mark.parametrize(
    ("changes", "parameters"),
    [
        ({"hidden_dim": 4096}, 19_939_840), ({}, 5_775_872), ({"hidden_layers": 1}, 1_577_472),
    ],
)  # fmt: skip
def test_heads_have_the_reference_tables_parameters(changes, parameters):
    with torch.device("meta"):
        model = NNCLR(NNCLRConfig(encoder="res18", **changes))
    assert sum(parameter.numel() for parameter in model.projector.parameters()) == parameters
    assert sum(parameter.numel() for parameter in model.predictor.parameters()) == 2_105_600


def test_defaults_are_the_papers():
    config = NNCLRConfig()
    assert (config.hidden_dim, config.hidden_layers, config.projection_dim, config.prediction_dim) == (2048, 2, 256, 4096)
    assert (config.temperature, config.queue_length) == (0.1, 98304)


@pytest.mark.slow
def test_training_tells_images_apart(tmp_path):
    penalty = penalty_for_other_images(digits_run("digits/nnclr", tmp_path / "run", epochs=1))
    assert penalty > 0.5  # three seeds: 0.86 to 0.97; untrained 0.00 or less
