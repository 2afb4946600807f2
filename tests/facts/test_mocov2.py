"""MoCo v2 against the paper's softmax over one key and a queue, in float64; its key encoder, queue and split batch norms by hand."""

import pytest
import torch
from learning import digits_run, gain

from sslzoo import MoCoV2, MoCoV2Config
from sslzoo.method import Progress
from sslzoo.optim import make_optimizer, set_learning_rates
from sslzoo.parts.split_batch_norm import SplitBatchNorm
from sslzoo.recipe import read_recipe

COUNT = 4


def progress(step=0, steps=101, epoch=0):
    return Progress(step, steps, epoch, 0, torch.arange(COUNT))


def method(**changes):
    """A method whose key encoder differs from its query encoder, as after some steps."""
    torch.manual_seed(0)
    values = {"encoder": "res6", "image_size": 16, "hidden_dim": 32, "projection_dim": 8, "queue_length": 12, **changes}
    model = MoCoV2(MoCoV2Config(**values)).double().train()
    with torch.no_grad():
        for parameter in model.key.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def views(seed=0, count=COUNT):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(count, 3, 16, 16, generator=generator, dtype=torch.float64) for _ in range(2)]


def without_splits(model):
    """The same weights in plain batch norms: the two have the same names."""
    plain = method(**{key: getattr(model.config, key) for key in ("symmetric", "joint_views", "temperature", "queue_length")})
    plain.load_state_dict(model.state_dict())
    return plain


def plain_rows(branch, pixels, groups):
    """Linear, ReLU, linear, and divided by the length; the images of a group meet in batch norms."""
    rows = {}
    for members in groups:
        hidden = branch.backbone(pixel_values=pixels[members]).last_hidden_state.mean(dim=(2, 3))
        first, _, last = branch.projector
        hidden = (hidden @ first.weight.T + first.bias).clamp(min=0) @ last.weight.T + last.bias
        rows |= {image: row / row.square().sum().sqrt() for image, row in zip(members, hidden, strict=True)}
    return [rows[image] for image in range(len(pixels))]


def plain_loss(queries, keys, queue, temperature):
    total = 0
    for query, key in zip(queries, keys, strict=True):
        right = torch.exp(query.dot(key) / temperature)
        wrong = sum(torch.exp(query.dot(negative) / temperature) for negative in queue)
        total = total - torch.log(right / (right + wrong))
    return total / len(queries)


def plain_method_loss(model, pixels, splits=1):
    config, branches = model.config, without_splits(model)
    count = len(pixels[0])
    asked = [[group for group in range(first, count, splits)] for first in range(splits)]
    order = progress().draw(1)[:, 0].argsort().tolist() if splits > 1 else list(range(count))
    answered = [order[first::splits] for first in range(splits)]
    if config.joint_views and config.symmetric:
        both = [list(range(2 * count))]
        queries = plain_rows(branches.query, torch.cat(pixels), both)
        keys = [key.detach() for key in plain_rows(branches.key, torch.cat(pixels), both)]
        queries, keys = (queries[:count], queries[count:]), (keys[:count], keys[count:])
    else:
        queries = [plain_rows(branches.query, view, asked) for view in pixels]
        keys = [[key.detach() for key in plain_rows(branches.key, view, answered)] for view in pixels]
    loss = plain_loss(queries[1], keys[0], model.queue.rows, config.temperature)
    if config.symmetric:
        loss = (loss + plain_loss(queries[0], keys[1], model.queue.rows, config.temperature)) / 2
    return loss, list(branches.query.parameters()), keys


CASES = [
    {}, {"symmetric": True}, {"symmetric": True, "joint_views": False}, {"temperature": 0.5},
    {"batch_norm_splits": 2}, {"batch_norm_splits": 2, "symmetric": True, "joint_views": False},
]  # fmt: skip


@pytest.mark.parametrize("changes", CASES, ids=lambda changes: "-".join(changes) or "default")
def test_loss_and_gradients_equal_those_of_the_plain_formulation(changes):
    model, pixels = method(**changes), views()
    out = model(pixels, progress())
    plain, weights, keys = plain_method_loss(model, pixels, model.config.batch_norm_splits)
    torch.testing.assert_close(out["loss"], plain, rtol=1e-10, atol=0)
    found, expected = torch.autograd.grad(out["loss"], list(model.query.parameters())), torch.autograd.grad(plain, weights)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-10)
    used = keys if model.config.symmetric else keys[:1]
    torch.testing.assert_close(out["keys"], torch.stack([torch.stack(view) for view in used], dim=1))


def test_no_gradient_reaches_a_key_encoder_that_requires_one():
    model = method(symmetric=True)
    model.key.requires_grad_(True)
    out = model(views(), progress())
    out["loss"].backward()
    assert all(parameter.grad is None for parameter in model.key.parameters()) and not out["keys"].requires_grad
    assert all(parameter.grad is not None for parameter in model.query.parameters())


def test_keys_of_this_step_are_not_among_its_negatives():
    """Both directions use the queue from before the step: keys of the first one are other views of the second one's images."""
    model, pixels = method(symmetric=True), views()
    model(pixels, progress())
    before = model.queue.rows.clone()
    usual = model(pixels, progress())["loss"]
    assert torch.equal(model.queue.rows, before)
    model.queue.rows.copy_(model(pixels, progress())["keys"].flatten(0, 1)[:1].expand(12, -1))
    assert (model(pixels, progress())["loss"] - usual).abs() > 1e-3, "the queue does matter"


def test_key_encoder_and_queue_after_two_steps_by_hand():
    model = method(teacher_momentum=0.9, symmetric=True, queue_length=10)
    teacher, queue = [parameter.clone() for parameter in model.key.parameters()], model.queue.rows.clone()
    optimizer = make_optimizer(model.parameter_groups(), "sgd", 0.0, 0.9, (0.9, 0.999), True)
    set_learning_rates(optimizer, 0.1, 1.0, 1)
    for step, places in ((0, range(8)), (1, [8, 9, 0, 1, 2, 3, 4, 5])):
        pixels = views(seed=step)
        _, _, keys = plain_method_loss(model, pixels)
        out = model(pixels, progress(step))
        out["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        model.after_step({name: value.detach() for name, value in out.items() if value.ndim}, progress(step))
        teacher = [0.9 * old + 0.1 * new.detach() for old, new in zip(teacher, model.query.parameters(), strict=True)]
        for found, expected in zip(model.key.parameters(), teacher, strict=True):
            torch.testing.assert_close(found.detach(), expected)
        newest = [key for pair in zip(*keys, strict=True) for key in pair]
        for place, key in zip(places, newest, strict=True):
            queue[place] = key
        torch.testing.assert_close(model.queue.rows, queue)


def test_key_encoder_keeps_its_own_running_statistics():
    model = method()
    model.key.backbone.embedder.normalization.running_mean.fill_(100.0)
    model.after_step({"keys": torch.ones(1, 1, 8, dtype=torch.float64)}, progress())
    assert (model.key.backbone.embedder.normalization.running_mean == 100).all()


def test_batch_norms_group_keys_differently_from_queries():
    model = method(batch_norm_splits=2)
    seen = {}
    for name in ("query", "key"):
        getattr(model, name).backbone.register_forward_pre_hook(
            lambda module, arguments, keywords, name=name: seen.update({name: keywords["pixel_values"]}), with_kwargs=True
        )
    pixels = views()
    groupings = set()
    for epoch in range(8):
        model(pixels, progress(epoch=epoch))
        assert torch.equal(seen["query"], pixels[1])
        order = [next(i for i in range(COUNT) if torch.equal(image, pixels[0][i])) for image in seen["key"]]
        assert sorted(order) == list(range(COUNT))
        groupings.add(frozenset(map(frozenset, (order[::2], order[1::2]))))
    assert len(groupings) > 1, "another order in each epoch"


def test_both_encoders_split_batch_norms_and_the_published_one_is_plain():
    model = method(batch_norm_splits=4)
    for branch in (model.query, model.key):
        norms = [module for module in branch.modules() if isinstance(module, SplitBatchNorm)]
        assert norms and all(norm.splits == 4 for norm in norms)
    assert list(model.state_dict()) == list(method().state_dict())
    assert sum(value.numel() for value in model.parameters()) == sum(value.numel() for value in method().parameters())
    model(views(), progress())
    image = views(seed=3)[0]
    expected = without_splits(model).encoder.eval()(pixel_values=image).last_hidden_state
    assert torch.equal(model.encoder.eval()(pixel_values=image).last_hidden_state, expected)


@pytest.mark.parametrize("recipe", ["cifar10/mocov2", "cifar10/mocov2-b512", "cifar10/mocov2-b512-e800"])
def test_recipes_of_cifar_split_batch_norms_in_eight(recipe):
    assert read_recipe(recipe).method_config().batch_norm_splits == 8 and read_recipe(recipe).method_config().symmetric


@pytest.mark.parametrize(
    ("encoder", "hidden", "parameters"), [("res50", 2048, 4_458_624), ("res18", 2048, 1_312_896), ("res18", 512, 328_320)]
)
def test_head_has_the_reference_tables_parameters(encoder, hidden, parameters):
    with torch.device("meta"):
        model = MoCoV2(MoCoV2Config(encoder=encoder, hidden_dim=hidden))
    assert sum(parameter.numel() for parameter in model.query.projector.parameters()) == parameters


def test_encoder_is_that_of_the_queries():
    model = method()
    assert model.encoder is model.query.backbone


def test_defaults_are_the_papers():
    config = MoCoV2Config()
    assert (config.temperature, config.queue_length, config.teacher_momentum, config.symmetric) == (0.2, 65536, 0.999, False)
    view = MoCoV2.views(224)["both"]
    assert (view.count, view.scale, view.blur, view.jitter) == (2, (0.2, 1.0), 0.5, 0.8)
    assert (view.brightness, view.contrast, view.saturation, view.hue) == (0.4, 0.4, 0.4, 0.1)


@pytest.mark.slow
def test_training_beats_the_untrained_encoder(tmp_path):
    assert gain(digits_run("digits/mocov2", tmp_path / "run", epochs=1, lr=0.005)) > 0.06
