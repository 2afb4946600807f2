"""SMoG's loss, groups, teacher and regrouping in loops, in float64."""

import pytest
import torch
from learning import digits_run, penalty_for_other_images

from sslzoo import SMoG, SMoGConfig
from sslzoo.method import Progress
from sslzoo.optim import make_optimizer, set_learning_rates

COUNT = 4


def progress(step=0, steps=101, epoch=0):
    return Progress(step, steps, epoch, 0, torch.arange(COUNT))


def method(**changes):
    """A method whose teacher differs from its student, as after some steps."""
    torch.manual_seed(0)
    sizes = {"hidden_dim": 32, "projection_dim": 8, "prediction_dim": 24, "groups": 5, "queue_length": 12, "group_momentum": 0.9}
    model = SMoG(SMoGConfig(**{"encoder": "res6", "image_size": 16, **sizes, **changes})).double().train()
    with torch.no_grad():
        model.groups.copy_(torch.nn.functional.normalize(torch.randn_like(model.groups), dim=1))
        for parameter in model.teacher.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def views(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(COUNT, 3, 16, 16, generator=generator, dtype=torch.float64) for _ in range(2)]


def cosine(first, second):
    return first.dot(second) / first.square().sum().sqrt() / second.square().sum().sqrt()


def plain_mlp(rows, layers):
    """Layer by layer, batch norms written out; those that have no weights change nothing after normalising."""
    for layer in layers:
        if isinstance(layer, torch.nn.Linear):
            rows = rows @ layer.weight.T + (0 if layer.bias is None else layer.bias)
        elif isinstance(layer, torch.nn.BatchNorm1d):
            centred = rows - rows.mean(dim=0)
            rows = centred / (centred.square().mean(dim=0) + 1e-5).sqrt()
            rows = rows if layer.weight is None else rows * layer.weight + layer.bias
        else:
            rows = rows.clamp(min=0)
    return rows


def plain_projections(branch, pixels):
    return plain_mlp(branch.backbone(pixel_values=pixels).last_hidden_state.mean(dim=(2, 3)), branch.projector)


def plain_groups(groups, rows, momentum):
    """Each group with members: momentum times itself, and the rest the mean of the rows that are nearest to it, as long as they are."""
    members = [[] for _ in groups]
    for row in rows:
        members[max(range(len(groups)), key=lambda g: float(cosine(row.detach(), groups[g])))].append(row)
    return [
        momentum * group + (1 - momentum) * torch.stack(its).mean(dim=0) if its else group
        for group, its in zip(groups, members, strict=True)
    ]  # fmt: skip


def plain_loss(model, pixels, temperature=0.1):
    first, second = pixels
    projections = plain_projections(model.online, first)
    predictions = plain_mlp(projections, model.predictor)
    keys = plain_projections(model.teacher, second).detach()
    targets = [max(range(len(model.groups)), key=lambda g: float(cosine(key, model.groups[g]))) for key in keys]
    moved = plain_groups(list(model.groups), projections, model.config.group_momentum)
    total = 0
    for prediction, target in zip(predictions, targets, strict=True):
        shares = [torch.exp(cosine(prediction, group) / temperature) for group in moved]
        total = total - torch.log(shares[target] / sum(shares)) / COUNT
    return total


@pytest.mark.parametrize(
    "changes", [{}, {"temperature": 0.5}, {"group_momentum": 0.5}, {"groups": 40}], ids=lambda changes: next(iter(changes), "default")
)
@pytest.mark.parametrize("step", [0, 1])
def test_loss_and_gradients_equal_those_of_the_plain_formulation(changes, step):
    model, pixels = method(**changes), views()
    ours = model(pixels, progress(step))["loss"]
    plain = plain_loss(model, pixels[::-1] if step else pixels, changes.get("temperature", 0.1))  # odd steps swap the views
    torch.testing.assert_close(ours, plain, rtol=1e-10, atol=0)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for found, expected in zip(torch.autograd.grad(ours, weights), torch.autograd.grad(plain, weights), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-10)


def test_gradient_flows_through_the_updated_groups():
    model = method()
    with torch.no_grad():
        model.predictor[-1].weight.zero_()
        model.predictor[-1].bias.fill_(1.0)  # no gradient comes through the predictor
    model(views(), progress())["loss"].backward()
    assert model.online.projector[0].weight.grad.abs().max() > 1e-6


def test_no_gradient_reaches_a_teacher_that_requires_one():
    model = method()
    model.teacher.requires_grad_(True)
    model(views(), progress())["loss"].backward()
    assert all(parameter.grad is None for parameter in model.teacher.parameters())


def test_groups_queue_and_teacher_after_two_steps_by_hand():
    model = method(teacher_momentum=0.8, queue_length=6)
    groups, queue = list(model.groups.clone()), model.queue.rows.clone()
    teacher = [parameter.clone() for parameter in model.teacher.parameters()]
    optimizer = make_optimizer(model.parameter_groups(), "sgd", 0.0, 0.9, (0.9, 0.999), True)
    set_learning_rates(optimizer, 0.1, 1.0, 1)
    for step, places in ((0, [0, 1, 2, 3]), (1, [4, 5, 0, 1])):
        pixels = views(seed=step)
        rows = plain_projections(model.online, pixels[step]).detach()
        used = model.groups.clone()
        out = model(pixels, progress(step))
        assert torch.equal(model.groups, used), "groups are stored after the step"
        out["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        model.after_step({"projections": out["projections"].detach()}, progress(step))
        groups = plain_groups(groups, rows, 0.9)
        torch.testing.assert_close(model.groups, torch.stack(groups))
        for place, row in zip(places, rows, strict=True):
            queue[place] = row
        torch.testing.assert_close(model.queue.rows, queue)
        teacher = [0.8 * old + 0.2 * new.detach() for old, new in zip(teacher, model.online.parameters(), strict=True)]
        for found, expected in zip(model.teacher.parameters(), teacher, strict=True):
            torch.testing.assert_close(found.detach(), expected)


def test_groups_of_micro_batches_are_those_of_the_whole_batch():
    """The training loop concatenates the rows of several micro-batches."""
    model = method()
    rows = 3 * torch.randn(12, 8, dtype=torch.float64)
    expected = torch.stack(plain_groups(list(model.groups.clone()), rows, 0.9))
    model.after_step({"projections": rows}, progress())
    torch.testing.assert_close(model.groups, expected)


def test_reset_makes_groups_cluster_centres_of_the_queue_and_the_teacher_the_student():
    model = method(reset_every=3, groups=4, queue_length=40)
    true = 11 * torch.eye(8, dtype=torch.float64)[:4]
    rows = (true.repeat(10, 1) + 0.1 * torch.randn(40, 8, dtype=torch.float64))[torch.randperm(40)]
    model.online.backbone.embedder.normalization.running_mean.fill_(7.0)
    for step in range(3):
        before = model.groups.clone()
        assert not torch.equal(*(branch.projector[0].weight for branch in (model.teacher, model.online)))
        model.after_step({"projections": rows}, progress(step))
        moved = torch.stack(plain_groups(list(before), rows, 0.9))
        assert torch.allclose(model.groups, moved) is (step < 2)
    torch.testing.assert_close(model.groups.norm(dim=1), torch.ones(4).double())
    assert sorted(model.groups.argmax(dim=1).tolist()) == [0, 1, 2, 3] and model.groups.max(dim=1).values.min() > 0.99
    for name, value in model.teacher.state_dict().items():
        assert torch.equal(value, model.online.state_dict()[name]), name


def test_reset_does_not_depend_on_global_random_numbers_or_the_batch():
    found = []
    for seed, samples in ((0, [0, 1, 2, 3]), (1, [7, 8, 9, 9])):
        model = method(reset_every=1, queue_length=40, groups=8)
        generator = torch.Generator().manual_seed(3)
        rows = torch.randn(40, 8, dtype=torch.float64, generator=generator)
        torch.manual_seed(seed)
        model.after_step({"projections": rows}, Progress(0, 101, 0, 0, torch.tensor(samples)))
        found.append(model.groups.clone())
    assert torch.equal(*found)


def test_groups_start_on_the_unit_sphere():
    torch.manual_seed(0)
    groups = SMoG(SMoGConfig(encoder="res6", image_size=16, groups=20)).groups
    torch.testing.assert_close(groups.norm(dim=1), torch.ones(20))


@pytest.mark.parametrize("encoder", ["res18"])
def test_heads_have_the_reference_tables_parameters(encoder):
    with torch.device("meta"):
        model = SMoG(SMoGConfig(encoder=encoder))
    assert sum(parameter.numel() for parameter in model.online.projector.parameters()) == 1_314_816
    assert sum(parameter.numel() for parameter in model.predictor.parameters()) == 528_512


def test_encoder_is_the_students():
    model = method()
    assert model.encoder is model.online.backbone


def test_defaults_are_the_papers_groups_and_the_reference_tables_values():
    config = SMoGConfig()
    assert (config.groups, config.temperature, config.group_momentum, config.teacher_momentum) == (3000, 0.1, 0.99, 0.99)
    assert (config.reset_every, config.queue_length) == (300, 10000)
    first, second = SMoG.views(224).values()
    assert (first.scale, first.blur, first.solarize, second.blur, second.solarize) == ((0.2, 1.0), 0.5, 0.0, 0.1, 0.2)


@pytest.mark.slow
def test_training_tells_images_apart(tmp_path):
    penalty = penalty_for_other_images(digits_run("digits/smog", tmp_path / "run", epochs=1))
    assert penalty > 0.15  # three seeds: 0.26 to 0.30; untrained up to 0.02
