"""BYOL against the paper's squared distances of unit vectors, row by row in float64, and its teacher by hand."""

import pytest
import torch
from learning import digits_run, penalty_for_other_images

from sslzoo import BYOL, BYOLConfig
from sslzoo.method import Progress
from sslzoo.recipe import read_recipe

COUNT = 4


def progress(step=0, steps=101):
    return Progress(step, steps, 0, 0, torch.arange(COUNT))


def method(**changes):
    """A method whose teacher differs from its student, as after some steps."""
    torch.manual_seed(0)
    values = {"encoder": "res6", "image_size": 16, "hidden_dim": 32, "projection_dim": 16, **changes}
    model = BYOL(BYOLConfig(**values)).double().train()
    with torch.no_grad():
        for parameter in model.teacher.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
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


def plain_distances(model, pixels, joint):
    """The two directions' squared distances between the unit vectors of prediction and target, mean over images."""

    def project(branch, images):
        return plain_mlp(plain_features(branch.backbone, images), branch.projector)

    def batches(network):
        return network(torch.cat(pixels)).chunk(2) if joint else [network(view) for view in pixels]

    predictions = batches(lambda images: plain_mlp(project(model.student, images), model.predictor))
    targets = [rows.detach() for rows in batches(lambda images: project(model.teacher, images))]
    distances = []
    for prediction, target in ((predictions[0], targets[1]), (predictions[1], targets[0])):
        total = 0
        for row, other in zip(prediction, target, strict=True):
            total = total + (row / row.dot(row).sqrt() - other / other.dot(other).sqrt()).square().sum()
        distances.append(total / COUNT)
    return distances


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("scale", [4.0, 1.0])
def test_loss_and_gradients_equal_those_of_the_plain_formulation(scale, joint):
    model, pixels = method(loss_scale=scale, joint_views=joint), views()
    ours = model(pixels, progress())["loss"]
    # The paper's loss is the sum of both distances, 2 - 2 cosine each; ours leaves its constant 4 out.
    plain = (sum(plain_distances(model, pixels, joint)) - 4) * scale / 4
    torch.testing.assert_close(ours, plain, rtol=1e-10, atol=0)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for found, expected in zip(torch.autograd.grad(ours, weights), torch.autograd.grad(plain, weights), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-10)


def test_views_are_one_batch_only_if_joint():
    joint, single = (method(joint_views=joint)(views(), progress())["loss"].item() for joint in (True, False))
    assert joint != pytest.approx(single, rel=1e-3)


def test_each_view_predicts_the_other_and_never_itself():
    model = method()
    first, second, leaning = (torch.tensor(row, dtype=torch.float64).expand(COUNT, 2) for row in ([1, 0], [0, 1], [0.8, 0.6]))
    students, teachers = iter([first, second]), iter([leaning, second])
    model.student.projector.forward = lambda _: next(students)
    model.teacher.projector.forward = lambda _: next(teachers)
    model.predictor.forward = lambda rows: rows
    # The first view's prediction and the second view's target: 0; the second's prediction and the first's target: 0.6.
    assert model(views(), progress())["loss"].item() == pytest.approx(4 * -(0 + 0.6) / 2)


def test_no_gradient_reaches_a_teacher_that_requires_one():
    model = method()
    model.teacher.requires_grad_(True)
    model(views(), progress())["loss"].backward()
    assert all(parameter.grad is None for parameter in model.teacher.parameters())
    trained = [*model.student.parameters(), *model.predictor.parameters()]
    assert all(parameter.grad is not None for parameter in trained)


def test_only_the_student_has_a_predictor():
    model = method()
    calls = []
    model.predictor.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    model(views(), progress())
    assert calls == [True, True]
    assert {name for name, _ in model.teacher.named_children()} == {"backbone", "projector"}


def test_teacher_after_two_steps_by_hand():
    model = method(teacher_momentum=0.9, teacher_momentum_end=1.0)
    teacher = [parameter.clone() for parameter in model.teacher.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    # Steps 0 and 50 of 101: the momentum is 0.9 and half way from there to 1.
    for step, momentum in ((0, 0.9), (50, 0.95)):
        model(views(step), progress(step))["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        model.after_step({}, progress(step))
        teacher = [
            momentum * old + (1 - momentum) * student.detach() for old, student in zip(teacher, model.student.parameters(), strict=True)
        ]
        for found, expected in zip(model.teacher.parameters(), teacher, strict=True):
            torch.testing.assert_close(found.detach(), expected)


def test_teacher_keeps_its_own_batch_statistics():
    """In training mode it normalises by its batch, and its running statistics are not copied from the student."""
    model = method()
    norm = model.teacher.projector[1]
    norm.running_mean.fill_(100.0)
    model.after_step({}, progress())
    assert (norm.running_mean == 100).all()
    loss = model(views(), progress())["loss"]
    assert (norm.running_mean < 99).all()
    torch.testing.assert_close(loss, sum(plain_distances(model, views(), False)) - 4)


@pytest.mark.parametrize(("step", "share"), [(0, 0.004), (50, 0.002), (100, 0.0)])
def test_momentum_goes_from_0996_to_1(step, share):
    model = method()
    before = [parameter.clone() for parameter in model.teacher.parameters()]
    model.after_step({}, progress(step))
    for old, new, student in zip(before, model.teacher.parameters(), model.student.parameters(), strict=True):
        torch.testing.assert_close(new - old, share * (student.detach() - old), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(
    ("recipe", "projector", "predictor", "scale", "momentum"),
    [
        ("imagenet1k/byol", 9_445_632, 2_105_600, 4.0, (0.99, 1.0)),
        ("imagenet100/byol", 3_154_176, 2_105_600, 1.0, (0.999, 0.999)),
        ("imagenette/byol", 3_154_176, 2_105_600, 1.0, (0.99, 0.99)),
        ("cifar10/byol", 788_736, 526_592, 1.0, (0.99, 0.99)),
    ],
)
def test_recipes_have_the_reference_tables_heads_and_constants(recipe, projector, predictor, scale, momentum):
    with torch.device("meta"):
        model = read_recipe(recipe).make_method()
    assert sum(parameter.numel() for parameter in model.student.projector.parameters()) == projector
    assert sum(parameter.numel() for parameter in model.predictor.parameters()) == predictor
    config = model.config
    assert (config.loss_scale, config.teacher_momentum, config.teacher_momentum_end, config.joint_views) == (scale, *momentum, False)


def test_defaults_are_the_papers():
    with torch.device("meta"):
        model = BYOL(BYOLConfig())
    config = model.config
    assert (config.teacher_momentum, config.teacher_momentum_end, config.loss_scale, config.joint_views) == (0.996, 1.0, 4.0, False)
    assert sum(parameter.numel() for parameter in model.student.projector.parameters()) == 9_445_632
    assert sum(parameter.numel() for parameter in model.predictor.parameters()) == 2_105_600


def test_views_are_the_papers_two():
    first, second = BYOL.views(224).values()
    assert (first.blur, second.blur, first.solarize, second.solarize) == (1.0, 0.1, 0.0, 0.2)
    for view in (first, second):
        assert (view.count, view.size, view.scale, view.interpolation, view.horizontal_flip) == (1, 224, (0.08, 1.0), "bicubic", 0.5)
        assert (view.jitter, view.brightness, view.contrast, view.saturation, view.hue) == (0.8, 0.4, 0.4, 0.2, 0.1)
        assert (view.grayscale, view.blur_sigma) == (0.2, (0.1, 2.0))


def test_encoder_is_the_students():
    model = method()
    assert model.encoder is model.student.backbone


@pytest.mark.slow
def test_training_tells_images_apart(tmp_path):
    penalty = penalty_for_other_images(digits_run("digits/byol", tmp_path / "run", epochs=1))
    assert penalty > 0.3  # three seeds: 0.53 to 0.60; untrained up to 0.03
