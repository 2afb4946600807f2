"""TiCo against the paper's loss with loops over rows and dimensions in float64, and its covariance and teacher by hand."""

import pytest
import torch
from learning import digits_run, penalty_for_other_images

from sslzoo import TiCo, TiCoConfig
from sslzoo.method import Progress
from sslzoo.recipe import read_recipe

COUNT = 4
WIDTH = 6


def progress(step=0, steps=101):
    return Progress(step, steps, 0, 0, torch.arange(COUNT))


def method(**changes):
    """A method whose teacher differs from its student and whose covariance is not zero, as after some steps."""
    torch.manual_seed(0)
    values = {"encoder": "res6", "image_size": 16, "hidden_dim": 32, "projection_dim": WIDTH, **changes}
    model = TiCo(TiCoConfig(**values)).double().train()
    with torch.no_grad():
        for parameter in model.teacher.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        rows = torch.nn.functional.normalize(torch.randn(9, WIDTH, dtype=torch.float64), dim=1)
        model.covariance.copy_(rows.T @ rows / 9)
    return model


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


def unit_rows(branch, pixels):
    rows = plain_mlp(plain_features(branch.backbone, pixels), branch.projector)
    return [row / row.dot(row).sqrt() for row in rows]


def plain_covariance(rows):
    """The mean outer product; embeddings are not centred."""
    rows = [row.detach() for row in rows]
    return torch.stack([torch.stack([sum(row[i] * row[j] for row in rows) / len(rows) for j in range(WIDTH)]) for i in range(WIDTH)])


def plain_loss(model, pixels, beta, rho):
    """1 - mean u.v + rho * mean u'Cu, u of the student's first view, v of the teacher's second."""
    mine, theirs = unit_rows(model.student, pixels[0]), unit_rows(model.teacher, pixels[1])
    covariance = beta * model.covariance + (1 - beta) * plain_covariance(mine)
    agreement = sum(u.dot(v.detach()) for u, v in zip(mine, theirs, strict=True)) / COUNT
    crowding = sum(u[i] * covariance[i, j] * u[j] for u in mine for i in range(WIDTH) for j in range(WIDTH)) / COUNT
    return 1 - agreement + rho * crowding


@pytest.mark.parametrize(("beta", "rho"), [(0.9, 8.0), (0.9, 20), (0.5, 8.0), (0.9, 0.0)])
def test_loss_and_gradients_equal_those_of_the_plain_formulation(beta, rho):
    model, pixels = method(covariance_momentum=beta, rho=rho), views()
    ours, plain = model(pixels, progress())["loss"], plain_loss(model, pixels, beta, rho)
    torch.testing.assert_close(ours, plain, rtol=1e-10, atol=0)
    weights = list(model.student.parameters())
    for found, expected in zip(torch.autograd.grad(ours, weights), torch.autograd.grad(plain, weights), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-10)


def test_loss_is_the_sum_of_what_is_logged():
    out = method(rho=3.0)(views(), progress())
    torch.testing.assert_close(out["loss"], out["invariance"] + 3 * out["contrast"])


def test_covariance_has_a_stop_gradient():
    """A new method's covariance is the batch's alone; if it took a gradient, the contrast's would be twice as large."""
    model = method(covariance_momentum=0.0)
    projected = []
    model.student.projector.register_forward_hook(lambda module, arguments, out: projected.append(out) or out.retain_grad())
    out = model(views(), progress())
    (found,) = torch.autograd.grad(out["contrast"], projected[0])
    free = projected[0].detach().clone().requires_grad_()
    rows = torch.nn.functional.normalize(free, dim=1)
    ((rows @ (rows.T @ rows / COUNT)) * rows).sum(dim=1).mean().backward()
    torch.testing.assert_close(2 * found, free.grad)


def test_student_sees_the_first_view_and_teacher_the_second():
    model, (first, second) = method(), views()
    loss = model([first, second], progress())["loss"]
    assert (model([second, first], progress())["loss"] - loss).abs() > 1e-3, "not symmetric"
    seen = {}
    for name in ("student", "teacher"):
        getattr(model, name).backbone.register_forward_pre_hook(
            lambda module, arguments, keywords, name=name: seen.setdefault(name, []).append(keywords.get("pixel_values", *arguments)),
            with_kwargs=True,
        )
    model([first, second], progress())
    assert torch.equal(*seen["student"], first) and torch.equal(*seen["teacher"], second)


def test_no_gradient_reaches_a_teacher_that_requires_one():
    model = method()
    model.teacher.requires_grad_(True)
    model(views(), progress())["loss"].backward()
    assert all(parameter.grad is None for parameter in model.teacher.parameters())
    assert all(parameter.grad is not None for parameter in model.student.parameters())


def test_covariance_and_teacher_after_two_steps_by_hand():
    model = method(covariance_momentum=0.8, teacher_momentum=0.9, teacher_momentum_end=1.0)
    covariance, teacher = model.covariance.clone(), [parameter.clone() for parameter in model.teacher.parameters()]
    optimizer = torch.optim.SGD(model.student.parameters(), lr=0.1)
    # Steps 0 and 50 of 101: the teacher's momentum is 0.9 and half way from there to 1.
    for step, momentum in ((0, 0.9), (50, 0.95)):
        pixels = views(step)
        batch = plain_covariance(unit_rows(model.student, pixels[0]))
        out = model(pixels, progress(step))
        assert torch.equal(model.covariance, covariance), "the loss moves nothing"
        out["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        model.after_step({name: value.detach() for name, value in out.items() if value.ndim}, progress(step))
        covariance = 0.8 * covariance + 0.2 * batch
        teacher = [
            momentum * old + (1 - momentum) * student.detach() for old, student in zip(teacher, model.student.parameters(), strict=True)
        ]
        torch.testing.assert_close(model.covariance, covariance)
        covariance = model.covariance.clone()
        for found, expected in zip(model.teacher.parameters(), teacher, strict=True):
            torch.testing.assert_close(found.detach(), expected)


def test_covariance_of_micro_batches_is_that_of_the_whole_batch():
    """The training loop concatenates the rows of several micro-batches."""
    model = method()
    before, batches = model.covariance.clone(), torch.randn(3, WIDTH, WIDTH, dtype=torch.float64)
    model.after_step({"batch_covariance": batches}, progress())
    torch.testing.assert_close(model.covariance, 0.9 * before + 0.1 * batches.mean(dim=0))


def test_covariance_starts_at_zero_and_is_saved():
    model = TiCo(TiCoConfig(encoder="res6", image_size=16, projection_dim=WIDTH))
    assert not model.covariance.any() and "covariance" in model.state_dict()


@pytest.mark.parametrize(("step", "share"), [(0, 0.01), (50, 0.005), (100, 0.0)])
def test_momentum_goes_from_099_to_1(step, share):
    model = method()
    before = [parameter.clone() for parameter in model.teacher.parameters()]
    model.after_step({"batch_covariance": torch.zeros(1, WIDTH, WIDTH, dtype=torch.float64)}, progress(step))
    for old, new, student in zip(before, model.teacher.parameters(), model.student.parameters(), strict=True):
        torch.testing.assert_close(new - old, share * (student.detach() - old), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(("recipe", "projector", "momentum"), [("imagenet1k/tico", 9_445_632, 0.99), ("imagenette/tico", 788_736, 0.996)])
def test_recipes_have_the_reference_tables_heads_and_constants(recipe, projector, momentum):
    with torch.device("meta"):
        model = read_recipe(recipe).make_method()
    assert sum(parameter.numel() for parameter in model.student.projector.parameters()) == projector
    config = model.config
    assert (config.rho, config.covariance_momentum, config.teacher_momentum, config.teacher_momentum_end) == (8.0, 0.9, momentum, 1.0)


def test_defaults_are_the_papers():
    with torch.device("meta"):
        model = TiCo(TiCoConfig())
    config = model.config
    assert (config.rho, config.covariance_momentum, config.teacher_momentum, config.teacher_momentum_end) == (8.0, 0.9, 0.99, 1.0)
    assert sum(parameter.numel() for parameter in model.student.projector.parameters()) == 9_445_632
    assert model.covariance.shape == (256, 256)


def test_views_are_byols_two():
    first, second = TiCo.views(224).values()
    assert (first.blur, second.blur, first.solarize, second.solarize) == (1.0, 0.1, 0.0, 0.2)
    for view in (first, second):
        assert (view.count, view.size, view.scale, view.horizontal_flip, view.grayscale) == (1, 224, (0.08, 1.0), 0.5, 0.2)
        assert (view.jitter, view.brightness, view.contrast, view.saturation, view.hue) == (0.8, 0.4, 0.4, 0.2, 0.1)


def test_encoder_is_the_students():
    model = method()
    assert model.encoder is model.student.backbone


@pytest.mark.slow
def test_training_tells_images_apart(tmp_path):
    penalty = penalty_for_other_images(digits_run("digits/tico", tmp_path / "run", epochs=1))
    assert penalty > 0.15  # three seeds: 0.18 to 0.22; untrained 0.09 to 0.13
