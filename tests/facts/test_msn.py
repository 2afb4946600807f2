"""MSN against the paper's steps, one image, patch and prototype after the other, and its teacher by hand, in float64."""

import math

import pytest
import torch
from learning import prediction_of_assignments

from sslzoo import MSN, MSNConfig
from sslzoo.method import Progress
from sslzoo.optim import make_optimizer, set_learning_rates
from sslzoo.recipe import read_recipe

COUNT, PATCH = 4, 4


def progress(step=0, steps=101, epoch=0):
    return Progress(step, steps, epoch, 0, torch.arange(COUNT))


def method(**changes):
    """A method whose teacher differs from its student, as after some steps."""
    torch.manual_seed(0)
    values = {"encoder": "vit-xs4", "image_size": 16, "hidden_dim": 32, "projection_dim": 8, "prototypes": 12, **changes}
    model = MSN(MSNConfig(**values)).double().train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def views(focal=2, seed=0):
    """A target, an anchor, and focal views that are smaller than the encoder's image size."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(COUNT, 3, size, size, generator=generator, dtype=torch.float64) for size in [16, 16, *[12] * focal]]


def kept_patches(pixels, model):
    """For each anchor view and image the patches with the smallest random numbers, whose columns are those of one view after the other."""
    counts = [(view.shape[-1] // PATCH) ** 2 for view in pixels[1:]]
    noise, kept, begin = progress().draw(sum(counts)).tolist(), [], 0
    for index, count in enumerate(counts):
        ratio = model.config.focal_mask_ratio if index else model.config.mask_ratio
        rows = [row[begin : begin + count] for row in noise]
        kept.append([sorted(sorted(range(count), key=row.__getitem__)[: int(count * (1 - ratio))]) for row in rows])
        begin += count
    return kept


def plain_class_tokens(backbone, pixels, kept):
    """Image by image, the class token of an encoder that gets only the kept patches. None: all patches."""
    embeddings, found = backbone.embeddings, []
    for index, image in enumerate(pixels):
        places = embeddings.interpolate_pos_encoding(torch.zeros(1, 1, 64), *image.shape[1:])[0]
        if image.shape[1:] == (16, 16):
            places = embeddings.position_embeddings[0]
        side = image.shape[1] // PATCH
        rows = [embeddings.cls_token[0, 0] + places[0]]
        for patch in range(side**2) if kept is None else kept[index]:
            row, column = divmod(patch, side)
            cut = image[:, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH].flatten()
            projection = embeddings.patch_embeddings.projection
            rows.append(projection.weight.flatten(1) @ cut + projection.bias + places[1 + patch])
        hidden = torch.stack(rows)[None]
        for layer in backbone.layers:
            hidden = layer(hidden)
        found.append(backbone.layernorm(hidden)[0, 0])
    return torch.stack(found)


def plain_project(projector, rows):
    """Linear, batch norm over these rows, GELU, twice; then a linear layer."""
    first, first_norm, _, second, second_norm, _, last = projector
    for linear, norm in ((first, first_norm), (second, second_norm)):
        rows = rows @ linear.weight.T
        centred = rows - rows.mean(dim=0)
        rows = centred / (centred.square().mean(dim=0) + 1e-5).sqrt() * norm.weight + norm.bias
        rows = rows * (1 + torch.erf(rows / math.sqrt(2))) / 2
    return rows @ last.weight.T + last.bias


def plain_branches(model, pixels):
    """The teacher's embeddings of the target and a list of the student's embeddings of each anchor."""
    target = plain_project(model.teacher.projector, plain_class_tokens(model.teacher.backbone, pixels[0], None))
    student = model.student
    encoded = [
        plain_class_tokens(student.backbone, view, kept) for view, kept in zip(pixels[1:], kept_patches(pixels, model), strict=True)
    ]
    if not model.config.joint_views:
        return target, [plain_project(student.projector, rows) for rows in encoded]
    focal = plain_project(student.projector, torch.cat(encoded[1:])).split(COUNT) if encoded[1:] else []
    return target, [plain_project(student.projector, encoded[0]), *focal]


def plain_assignments(rows, prototypes, temperature):
    """Each row's softmax over its cosines to the prototypes."""
    shares = []
    for row in rows:
        powers = torch.stack([torch.exp(row.dot(p) / (row.norm() * p.norm()) / temperature) for p in prototypes])
        shares.append(powers / powers.sum())
    return torch.stack(shares)


def plain_targets(rows, prototypes, temperature, sharpening):
    """Sharpened by a power, then three times: equal sums over prototypes, equal sums over images."""
    shares = plain_assignments(rows, prototypes, temperature) ** (1 / sharpening)
    shares = shares / shares.sum(dim=1, keepdim=True)
    count, prototypes = shares.shape
    shares = shares / shares.sum()
    for _ in range(3):
        shares = shares / shares.sum(dim=0, keepdim=True) / prototypes
        shares = shares / shares.sum(dim=1, keepdim=True) / count
    return (shares * count).detach()


def plain_loss(model, target, anchors, temperature=0.1, sharpening=0.25, weight=1.0):
    targets = plain_targets(target, model.prototypes.detach(), temperature, sharpening)
    predictions = [plain_assignments(rows, model.prototypes, temperature) for rows in anchors]
    entropy, pairs = 0, 0
    for shares in predictions:
        for its_target, prediction in zip(targets, shares, strict=True):
            entropy, pairs = entropy - sum(its_target * prediction.log()), pairs + 1
    mean = torch.cat(predictions).mean(dim=0)
    regularizer = math.log(len(mean)) + sum(mean * mean.log())
    return entropy / pairs + weight * regularizer


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"joint_views": False}, {"mask_ratio": 0.5}, {"focal_mask_ratio": 0.4}, {"temperature": 0.3}, {"sharpening": 0.5},
        {"entropy_weight": 3.0},
    ],
    ids=lambda changes: next(iter(changes), "default"),
)  # fmt: skip
def test_loss_and_gradients_equal_those_of_the_plain_formulation(changes):
    model, pixels = method(**changes), views()
    ours = model(pixels, progress())["loss"]
    names = {"temperature": "temperature", "sharpening": "sharpening", "entropy_weight": "weight"}
    plain = plain_loss(model, *plain_branches(model, pixels), **{names[key]: value for key, value in changes.items() if key in names})
    torch.testing.assert_close(ours, plain, rtol=1e-10, atol=0)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for found, expected in zip(torch.autograd.grad(ours, weights), torch.autograd.grad(plain, weights), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_regulariser_is_least_for_uniform_use_of_prototypes_and_greatest_for_one():
    """It is 0 for a uniform mean assignment and log K for a single prototype."""
    model, pixels = method(), views()
    target, anchors = plain_branches(model, pixels)
    plain = [plain_loss(model, target, anchors, weight=weight) for weight in (0.0, 1.0)]
    assert 0 < plain[1] - plain[0] < math.log(12)
    alone, both = (method(entropy_weight=weight)(pixels, progress())["loss"] for weight in (0.0, 1.0))
    torch.testing.assert_close(both - alone, plain[1] - plain[0])


def test_no_gradient_reaches_a_teacher_that_requires_one():
    model = method()
    model.teacher.requires_grad_(True)
    model(views(), progress())["loss"].backward()
    assert all(parameter.grad is None for parameter in model.teacher.parameters())
    assert model.prototypes.grad.abs().max() > 0, "prototypes are trained"


def test_teacher_after_two_steps_by_hand():
    model = method(teacher_momentum=0.9, teacher_momentum_end=1.0)
    teacher = [parameter.clone() for parameter in model.teacher.parameters()]
    optimizer = make_optimizer(model.parameter_groups(), "sgd", 0.0, 0.9, (0.9, 0.999), True)
    set_learning_rates(optimizer, 0.1, 1.0, 0)
    for step, momentum in ((0, 0.9), (50, 0.95)):
        out = model(views(seed=step), progress(step))
        out["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        model.after_step({}, progress(step))
        teacher = [momentum * old + (1 - momentum) * new.detach() for old, new in zip(teacher, model.student.parameters(), strict=True)]
        for found, expected in zip(model.teacher.parameters(), teacher, strict=True):
            torch.testing.assert_close(found.detach(), expected)


def test_prototypes_have_no_weight_decay_and_are_normalised():
    model = method()
    (group,) = [group for group in model.parameter_groups() if any(p is model.prototypes for p in group.parameters)]
    assert group.parameters == [model.prototypes] and not group.decay
    loss = model(views(), progress())["loss"]
    with torch.no_grad():
        model.prototypes.mul_(torch.arange(1.0, 13.0).double()[:, None])
    torch.testing.assert_close(model(views(), progress())["loss"], loss)


def test_encoder_is_the_teachers():
    model = method()
    assert model.encoder is model.teacher.backbone


def test_defaults_are_the_papers():
    with torch.device("meta"):
        model = MSN(MSNConfig())
    config = model.config
    assert (config.mask_ratio, config.focal_mask_ratio, config.temperature, config.sharpening) == (0.15, 0.0, 0.1, 0.25)
    assert (config.teacher_momentum, config.teacher_momentum_end, config.entropy_weight) == (0.996, 1.0, 1.0)
    assert model.prototypes.shape == (1024, 256) and model.student.backbone.config.hidden_size == 384
    # 384-2048-2048-256: two batch norms instead of biases, one bias.
    head = 384 * 2048 + 2048 * 2048 + 4 * 2048 + 2048 * 256 + 256
    assert sum(parameter.numel() for parameter in model.student.projector.parameters()) == head
    target, anchor, focal = MSN.views(224).values()
    assert (target.size, target.count, anchor.count, focal.size, focal.count) == (224, 1, 1, 96, 10)
    assert (target.scale, anchor.scale, focal.scale) == ((0.3, 1.0), (0.3, 1.0), (0.05, 0.3))


def test_recipe_of_the_reference_table_keeps_85_percent_of_every_anchors_patches():
    recipe = read_recipe("imagenette/msn")
    config = recipe.method_config()
    assert (config.mask_ratio, config.focal_mask_ratio, config.teacher_momentum_end) == (0.15, 0.15, 0.996)
    config.encoder.num_hidden_layers = 1
    with torch.device("meta"):
        model, seen = MSN(config), []
        for branch in (model.teacher, model.student):
            branch.backbone.layers[0].register_forward_pre_hook(lambda module, arguments: seen.append(tuple(arguments[0].shape[:2])))
        pixels = [torch.zeros(2, 3, view.size, view.size) for view in recipe.make_views().values() for _ in range(view.count)]
        model(pixels, Progress(0, 10, 0, 0, torch.zeros(2, dtype=torch.int64)))
    assert seen == [(2, 1 + 64), (2, 1 + 54), (20, 1 + 13)]


@pytest.mark.slow
def test_training_predicts_test_images_better_than_a_constant(tmp_path):
    assert prediction_of_assignments("digits/msn", tmp_path / "run") > 0.25  # three seeds: 0.34 to 0.60
