"""iBOT against its paper's sums over pairs of views and over masked patches, in float64, and the values of the official loss."""

import math

import pytest
import torch
from learning import prediction_of_assignments

from sslzoo import IBOT, IBOTConfig
from sslzoo.errors import InputError
from sslzoo.method import Progress
from sslzoo.optim import clip_gradients, make_optimizer, set_learning_rates
from sslzoo.parts.block_masks import BLOCK_COLUMNS, block_masks
from sslzoo.parts.masked_prediction import masked_cross_entropy
from sslzoo.parts.swapped_prediction import swapped_cross_entropy
from sslzoo.parts.temperature import warmed_up
from sslzoo.recipe import read_recipe

COUNT = 6


def progress(step=0, steps=101, epoch=40):
    return Progress(step, steps, epoch, 0, torch.arange(COUNT))


def method(changed=True, **changes):
    """A method whose teacher differs from its student and whose centres and mask token are not zero, as after some steps."""
    torch.manual_seed(0)
    small = {"encoder": "vit-xs4", "image_size": 16, "hidden_dim": 32, "bottleneck_dim": 8, "prototypes": 12}
    model = IBOT(IBOTConfig(**{**small, **changes})).double().train()
    if changed:
        with torch.no_grad():
            for parameter in [*model.teacher.parameters(), model.mask_token]:
                parameter.add_(0.1 * torch.randn_like(parameter))
            for values in (model.center, model.patch_center):
                values.normal_(std=0.1)
    return model


def views(local=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(COUNT, 3, size, size, generator=generator, dtype=torch.float64) for size in [16, 16, *[8] * local]]


def masks():
    return [block_masks(noise, 4, (0.1, 0.5), 0.5, 1) for noise in progress().draw(2 * BLOCK_COLUMNS).chunk(2, dim=1)]


def plain_mlp(layers, hidden, rows):
    """Batch norms take mean and variance of these rows of each image."""
    for layer in layers:
        if isinstance(layer, torch.nn.BatchNorm1d):
            seen = torch.cat([image[own] for image, own in zip(hidden, rows, strict=True)])
            scale = layer.weight / (seen.var(dim=0, correction=0) + layer.eps).sqrt()
            hidden = (hidden - seen.mean(dim=0)) * scale + layer.bias
        else:
            hidden = layer(hidden)
    return hidden


def plain_logits(branch, pixels, mask=None, mask_token=None):
    """Logits of the class token and of all patches, of plain transformers' ViT and a loop-free head."""
    backbone, head = branch["backbone"], branch["head"]
    patches = torch.nn.functional.conv2d(pixels, *backbone.embeddings.patch_embeddings.projection.parameters(), stride=4).flatten(2).mT
    if mask is not None:
        patches = torch.stack([
            torch.stack([mask_token if hidden else token for hidden, token in zip(row, tokens, strict=True)])
            for row, tokens in zip(mask, patches, strict=True)
        ])  # fmt: skip
    hidden = torch.cat((backbone.embeddings.cls_token.expand(len(pixels), -1, -1), patches), dim=1)
    hidden = hidden + backbone.embeddings.interpolate_pos_encoding(hidden, *pixels.shape[-2:])
    for layer in backbone.layers:
        hidden = layer(hidden)
    hidden = backbone.layernorm(hidden)
    # As many patches of an image as the largest mask has go through the student's head, and all through the teacher's.
    if mask is None:
        rows = [list(range(patches.shape[1]))] * len(pixels)
    else:
        rows = [sorted(range(16), key=lambda place: not own[place])[:8] for own in mask]
    hidden = torch.cat((plain_mlp(head.mlp, hidden[:, :1], [[0]] * len(pixels)), plain_mlp(head.mlp, hidden[:, 1:], rows)), dim=1)
    hidden = hidden / hidden.norm(dim=-1, keepdim=True)
    weights = head.prototypes / head.prototypes.norm(dim=1, keepdim=True)
    return hidden @ (weights if head.gain is None else weights * head.gain).T


def entropy(teacher, center, teacher_temperature, student, student_temperature=0.1):
    target = torch.exp((teacher - center) / teacher_temperature)
    prediction = torch.exp(student / student_temperature)
    return -(target / target.sum() * torch.log(prediction / prediction.sum())).sum()


def plain_loss(model, pixels, temperature=0.07):
    teachers = [plain_logits(model.teacher, view).detach() for view in pixels[:2]]
    students = [plain_logits(model.student, view, mask, model.mask_token) for view, mask in zip(pixels, masks(), strict=False)]
    students += [plain_logits(model.student, view) for view in pixels[2:]]
    image, pairs, patch = 0, 0, 0
    for g, teacher in enumerate(teachers):
        for v, student in enumerate(students):
            if v != g:
                pairs += 1
                image = image + sum(entropy(teacher[i, 0], model.center[0], temperature, student[i, 0]) for i in range(COUNT))
    for teacher, student, mask in zip(teachers, students, masks(), strict=False):
        for i in range(COUNT):
            hidden = [place for place in range(16) if mask[i, place]]
            terms = [entropy(teacher[i, 1 + place], model.patch_center[0], temperature, student[i, 1 + place]) for place in hidden]
            patch = patch + sum(terms) / max(1, len(hidden))
    return image / pairs / COUNT, patch / COUNT / 2


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"joint_views": False}, {"head_norm": True, "joint_views": False}, {"trained_gain": False, "hidden_layers": 1},
        {"patch_weight": 0.3}, {"teacher_temperature": 0.2},
    ],
    ids=lambda changes: next(iter(changes), "default"),
)
def test_loss_and_gradients_equal_those_of_the_plain_formulation(changes):
    model, pixels = method(**changes), views()
    ours = model(pixels, progress())
    image, patch = plain_loss(model, pixels, changes.get("teacher_temperature", 0.07))
    torch.testing.assert_close((ours["image_loss"], ours["patch_loss"]), (image.detach(), patch.detach()), rtol=1e-8, atol=1e-10)
    assert {int(mask.any()) for both in masks() for mask in both} == {0, 1}, "some views are masked and some are not"
    expected = image + changes.get("patch_weight", 1.0) * patch
    torch.testing.assert_close(ours["loss"], expected, rtol=1e-8, atol=1e-10)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    found = torch.autograd.grad(ours["loss"], weights)
    for gradient, plain in zip(found, torch.autograd.grad(expected, weights), strict=True):
        torch.testing.assert_close(gradient, plain, rtol=1e-6, atol=1e-9)


def reference(a, *shape):
    """The reference input of that name: sin(0.7 i + a) + 0.1 j, i the flat index and j that in the last dimension."""
    flat = torch.sin(0.7 * torch.arange(math.prod(shape), dtype=torch.float64) + a).reshape(shape)
    return flat + 0.1 * torch.arange(shape[-1], dtype=torch.float64)


@pytest.mark.parametrize(("temperature", "image", "patch"), [(0.04, 3.963426, 1.774792), (0.07, 4.012012, 1.646340)])
def test_values_of_the_official_loss(temperature, image, patch):
    """Three images, two global and two local views of five patches, six prototypes; both centres zero."""
    students = torch.stack((*reference(0, 6, 6).chunk(2), *reference(2, 6, 6).chunk(2)), dim=1)
    teachers = torch.stack(reference(1, 6, 6).chunk(2), dim=1)

    def assign(logits):
        return (logits / temperature).softmax(dim=-1)

    found = swapped_cross_entropy(assign(teachers), students, lambda logits: logits / 0.1)
    assert found.item() == pytest.approx(image, abs=1e-6)
    valid = torch.zeros(6, 5, dtype=torch.bool)
    for crop, places in ((0, [0, 1]), (4, [1, 2, 3]), (5, [4])):
        valid[crop, places] = True
    found = masked_cross_entropy(reference(4, 6, 5, 6), reference(3, 6, 5, 6), valid, assign, lambda logits: logits / 0.1, 6)
    assert found.item() == pytest.approx(patch, abs=1e-6)


def test_centers_of_the_official_loss_after_a_step():
    model = method(changed=False, prototypes=6)
    images, patches = reference(1, 6, 6).mean(dim=0, keepdim=True), reference(4, 30, 6).mean(dim=0, keepdim=True)
    model.after_step({"teacher_mean": images, "teacher_patch_mean": patches}, progress())
    assert model.center[0].tolist() == pytest.approx([-0.000568, 0.009767, 0.020213, 0.030558, 0.040641, 0.050422], abs=1e-6)
    assert model.patch_center[0].tolist() == pytest.approx([0.000568, 0.010236, 0.019793, 0.029447, 0.039362, 0.049576], abs=1e-6)


def test_centers_are_those_of_all_patches_and_are_used_before_they_move():
    model, pixels = method(), views()
    out = model(pixels, progress())
    logits = torch.cat([plain_logits(model.teacher, view) for view in pixels[:2]]).detach()
    torch.testing.assert_close(out["teacher_mean"][0], logits[:, 0].mean(dim=0))
    torch.testing.assert_close(out["teacher_patch_mean"][0], logits[:, 1:].mean(dim=(0, 1)))
    before = model.center.clone(), model.patch_center.clone()
    model.after_step({name: value.detach() for name, value in out.items() if value.ndim}, progress())
    torch.testing.assert_close(model.center, 0.9 * before[0] + 0.1 * out["teacher_mean"])
    torch.testing.assert_close(model.patch_center, 0.9 * before[1] + 0.1 * out["teacher_patch_mean"])


def test_first_loss_is_that_of_random_prototypes_and_is_zero_for_patches_without_masks():
    """8.24 was found for random unit vectors that are equal on both sides; the entropy of 8192 equal probabilities is 9.01."""
    model = method(changed=False, prototypes=8192, bottleneck_dim=256, masked_share=0.0)
    view = views()[0]
    out = model([view, view], progress(epoch=0))
    assert out["patch_loss"] == 0 and out["image_loss"].item() == pytest.approx(8.24, abs=0.05)


def test_temperature_rises_over_the_first_epochs():
    model, pixels = method(), views()
    assert warmed_up(0.04, 0.07, 15, 30) == pytest.approx(0.055517, abs=1e-6)
    for epoch, temperature in ((0, 0.04), (15, 0.04 + 0.03 * 15 / 29), (29, 0.07), (100, 0.07)):
        now = progress(epoch=epoch)
        own = [block_masks(noise, 4, (0.1, 0.5), 0.5, 1) for noise in now.draw(2 * BLOCK_COLUMNS).chunk(2, dim=1)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(globals(), "masks", lambda own=own: own)
            expected = plain_loss(model, pixels, temperature)
        out = model(pixels, now)
        torch.testing.assert_close((out["image_loss"], out["patch_loss"]), tuple(loss.detach() for loss in expected))


def test_masks_differ_between_the_views_of_an_image_and_from_epoch_to_epoch():
    model = method()
    first, second = model._masks(views()[:2], progress())[0]
    assert torch.equal(first, masks()[0]) and not torch.equal(first, second)
    assert not torch.equal(model._masks(views()[:2], progress(epoch=41))[0][0], first)


def test_student_sees_the_mask_token_and_the_teacher_the_image():
    model, pixels = method(), views()
    out = model(pixels, progress())
    with torch.no_grad():
        model.mask_token.normal_()
    changed = model(pixels, progress())
    assert changed["patch_loss"] != out["patch_loss"]
    torch.testing.assert_close((changed["teacher_mean"], changed["teacher_patch_mean"]), (out["teacher_mean"], out["teacher_patch_mean"]))


def test_last_layer_is_frozen_at_first_and_each_tensor_is_clipped_by_its_own_norm():
    model = method()
    optimizer = make_optimizer(model.parameter_groups(), "adamw", 0.04, 0.9, (0.9, 0.999), False)
    last = {id(parameter) for parameter in (model.student["head"].prototypes, model.student["head"].gain)}
    for epoch, moves in ((0, False), (1, True)):
        set_learning_rates(optimizer, 0.1, 1.0, epoch)
        before = [parameter.clone() for parameter in model.parameters()]
        (1000 * model(views(), progress())["loss"]).backward()
        clip_gradients(optimizer, "tensor", 3.0)
        norms = [float(parameter.grad.norm()) for parameter in model.parameters() if parameter.grad is not None]
        assert max(norms) == pytest.approx(3.0, rel=1e-5) and sum(norm > 2.99 for norm in norms) > 20
        optimizer.step()
        optimizer.zero_grad()
        for old, parameter in zip(before, model.parameters(), strict=True):
            if id(parameter) in last:
                assert torch.equal(old, parameter) is not moves
    decayed = {id(parameter) for group in model.parameter_groups() if group.decay for parameter in group.parameters}
    assert {*last, id(model.mask_token), id(model.student["backbone"].embeddings.cls_token)} <= decayed


@pytest.mark.parametrize(
    ("encoder", "gain_trained", "parameters"), [("vit-s16", True, 7_614_720), ("vit-s16", False, 7_606_528), ("vit-b16", True, 8_401_152)]
)
def test_head_has_the_official_parameters(encoder, gain_trained, parameters):
    with torch.device("meta"):
        model = IBOT(IBOTConfig(encoder=encoder, trained_gain=gain_trained))
    assert sum(parameter.numel() for parameter in model.student["head"].parameters()) == parameters
    if encoder == "vit-s16":
        trained = [parameter.numel() for name, parameter in model.student["backbone"].named_parameters() if "pooler" not in name]
        assert sum(trained) + model.mask_token.numel() == 21_666_048


def test_defaults_and_recipe_are_the_official_ones():
    config = IBOTConfig()
    assert (config.student_temperature, config.warmup_teacher_temperature, config.teacher_temperature) == (0.1, 0.04, 0.07)
    assert (config.prototypes, config.masked_share, config.smallest_mask_ratio, config.largest_mask_ratio) == (8192, 0.5, 0.1, 0.5)
    first, second, local = IBOT.views(224).values()
    assert (first.size, first.scale, second.scale, local.size, local.count, local.scale) == (
        224, (0.25, 1.0), (0.25, 1.0), 96, 10, (0.05, 0.25),
    )  # fmt: skip
    assert [(view.blur, view.solarize) for view in (first, second, local)] == [(1.0, 0.0), (0.1, 0.2), (0.5, 0.0)]
    recipe = read_recipe("imagenet1k/ibot")
    assert (recipe.weight_decay, recipe.weight_decay_end, recipe.drop_path) == (0.04, 0.4, 0.1)
    assert (recipe.clip, recipe.clip_norm) == ("tensor", 3.0)


def test_needs_an_encoder_with_tokens_and_ratios_in_order():
    with pytest.raises(InputError, match="ViT"):
        method(encoder="res6")
    with pytest.raises(Exception, match="largest_mask_ratio"):
        IBOTConfig(smallest_mask_ratio=0.6)


@pytest.mark.slow
def test_training_predicts_test_images_better_than_a_constant(tmp_path):
    assert prediction_of_assignments("digits/ibot", tmp_path / "run") > 0.05  # three seeds: 0.12 to 0.32
