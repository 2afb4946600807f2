"""DINOv2 against its paper's sums over pairs of views, masked patches and neighbours, in float64, and the values of the official loss."""

import math

import pytest
import torch

from sslzoo import DINOv2, DINOv2Config
from sslzoo.encoders import encoder_config
from sslzoo.errors import InputError
from sslzoo.method import Progress
from sslzoo.optim import clip_gradients, lr_factor, make_optimizer, set_learning_rates, weight_decay_at
from sslzoo.parts import chunks
from sslzoo.parts.block_masks import BLOCK_COLUMNS, block_masks
from sslzoo.parts.ema import momentum_schedule
from sslzoo.parts.koleo import koleo
from sslzoo.parts.masked_prediction import masked_cross_entropy
from sslzoo.parts.sinkhorn import sinkhorn, sinkhorn_center
from sslzoo.parts.swapped_prediction import swapped_cross_entropy
from sslzoo.recipe import read_recipe
from sslzoo.training.setup import encoder_groups

COUNT = 6


def progress(step=90, steps=101, count=COUNT):
    return Progress(step, steps, 3, 0, torch.arange(count))


def method(changed=True, registers=False, **changes):
    """A method whose teacher differs from its student and whose LayerScale, centres and mask token matter, as after some steps."""
    torch.manual_seed(0)
    encoder = encoder_config("dinov2-xs4-reg4" if registers else "dinov2-xs4", 16)
    encoder.num_hidden_layers, encoder.layerscale_value = 2, 0.5 if changed else 1e-5
    small = {"encoder": encoder, "image_size": 16, "hidden_dim": 32, "bottleneck_dim": 8, "prototypes": 12}
    model = DINOv2(DINOv2Config(**{**small, **changes})).double().train()
    if changed:
        with torch.no_grad():
            for parameter in [*model.teacher.parameters(), model.student["backbone"].embeddings.mask_token]:
                parameter.add_(0.1 * torch.randn_like(parameter))
            for _, buffer in model.named_buffers():
                buffer.normal_(std=0.1)
    return model


def views(local=2, seed=0, count=COUNT):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(count, 3, size, size, generator=generator, dtype=torch.float64) for size in [16, 16, *[8] * local]]


def masks(views_masked=1, now=None):
    """Of each image the masks of its two global views, None for one that is not masked."""
    numbers = (now or progress()).draw(1 + views_masked * BLOCK_COLUMNS)
    found = []
    for row in numbers:
        own = [block_masks(part[None], 4, (0.1, 0.5), 1.0, 1)[0] for part in row[1:].chunk(views_masked)]
        in_order = [*own, None][:2]
        found.append(in_order[::-1] if row[0] < 0.5 else in_order)
    return found


def plain_tokens(backbone, pixels, mask=None):
    """Class token and patches of one image by the family's own forward pass."""
    hidden = backbone(pixels[None], bool_masked_pos=None if mask is None else mask[None]).last_hidden_state[0]
    return hidden[0], hidden[-((pixels.shape[-1] // 4) ** 2) :]


def plain_logits(head, hidden):
    for layer in head.mlp:
        hidden = layer(hidden)
    hidden = hidden / hidden.norm()
    return torch.stack([gain * hidden.dot(row / row.norm()) for gain, row in zip(head.gain[:, 0], head.prototypes, strict=True)])


def plain_sinkhorn(logits, temperature, iterations=3):
    """Exponentials; then in turn each prototype's shares sum to 1 / prototypes, and each row's to 1 / rows."""
    table = torch.exp(torch.stack(logits) / temperature)
    for _ in range(iterations):
        table = table / table.sum(dim=0) / table.shape[1]
        table = table / table.sum(dim=1, keepdim=True) / table.shape[0]
    return list(table * table.shape[0])


def cross_entropy(target, logits):
    prediction = torch.exp(logits / 0.1)
    return -(target * torch.log(prediction / prediction.sum())).sum()


def plain_targets(model, logits, center, temperature):
    if model.config.centering == "sinkhorn":
        return plain_sinkhorn(logits, temperature)
    exponentials = [torch.exp((row - center[0]) / temperature) for row in logits]
    return [row / row.sum() for row in exponentials]


def plain_loss(model, pixels, temperature=0.07):
    """The losses of images and of masked patches, and KoLeo, by loops over images, views and patches."""
    config, student, teacher = model.config, model.student, model.teacher
    patch_head = "head" if config.shared_head else "patch_head"
    hidden = masks(config.masked_views)
    seen = [[plain_tokens(student["backbone"], view[i], None if v > 1 else hidden[i][v]) for i in range(COUNT)]
            for v, view in enumerate(pixels)]  # fmt: skip
    with torch.no_grad():
        taught = [[plain_tokens(teacher["backbone"], view[i]) for i in range(COUNT)] for view in pixels[:2]]
        logits = [plain_logits(teacher["head"], taught[g][i][0]) for i in range(COUNT) for g in range(2)]
        targets = plain_targets(model, logits, getattr(model, "center", None), temperature)
        places = [(i, v, p) for i in range(COUNT) for v in range(2) if hidden[i][v] is not None
                  for p in range(16) if hidden[i][v][p]]  # fmt: skip
        patch_logits = [plain_logits(teacher[patch_head], taught[v][i][1][p]) for i, v, p in places]
        patch_targets = plain_targets(model, patch_logits, getattr(model, "patch_center", None), temperature)
    image = 0
    for i in range(COUNT):
        predictions = [plain_logits(student["head"], seen[v][i][0]) for v in range(len(pixels))]
        for g in range(2):
            image = image + sum(cross_entropy(targets[2 * i + g], row) for v, row in enumerate(predictions) if v != g)
    patch = 0
    for (i, v, p), target in zip(places, patch_targets, strict=True):
        patch = patch + cross_entropy(target, plain_logits(student[patch_head], seen[v][i][1][p])) / hidden[i][v].sum()
    features = [torch.stack([seen[v][i][0] for i in range(COUNT)]) for v in range(2)]
    return image / COUNT / (2 * (len(pixels) - 1)), patch / (2 * COUNT), plain_koleo(features[0]) + plain_koleo(features[1])


def plain_koleo(rows):
    rows = [row / row.norm() for row in rows]
    nearest = [max((other for other in rows if other is not row), key=row.dot) for row in rows]
    return -sum(torch.log((row - other + 1e-8).norm() + 1e-8) for row, other in zip(rows, nearest, strict=True)) / len(rows)


CASES = [
    {}, {"registers": True}, {"joint_views": False}, {"shared_head": True, "centering": "softmax"}, {"centering": "softmax"},
    {"masked_views": 2}, {"patch_weight": 0.3, "koleo_weight": 0.7}, {"koleo_weight": 0.0}, {"teacher_temperature": 0.2},
]  # fmt: skip


@pytest.mark.parametrize("changes", CASES, ids=lambda changes: next(iter(changes), "default"))
def test_loss_and_gradients_equal_those_of_the_plain_formulation(changes):
    model, pixels = method(**changes), views()
    ours = model(pixels, progress())
    image, patch, spread = plain_loss(model, pixels, changes.get("teacher_temperature", 0.07))
    torch.testing.assert_close((ours["image_loss"], ours["patch_loss"]), (image.detach(), patch.detach()), rtol=1e-7, atol=1e-9)
    expected = image + changes.get("patch_weight", 1.0) * patch + changes.get("koleo_weight", 0.1) * spread
    torch.testing.assert_close(ours["loss"], expected, rtol=1e-7, atol=1e-9)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    found = torch.autograd.grad(ours["loss"], weights)
    for gradient, plain in zip(found, torch.autograd.grad(expected, weights), strict=True):
        torch.testing.assert_close(gradient, plain, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("centering", ["sinkhorn", "softmax"])
def test_chunks_give_the_same_loss_and_gradients(centering, monkeypatch):
    model, pixels = method(centering=centering), views()
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    whole = model(pixels, progress())["loss"]
    monkeypatch.setattr(chunks, "_LOGITS", 50)
    found = model(pixels, progress())["loss"]
    torch.testing.assert_close(found, whole, rtol=1e-10, atol=0)
    for gradient, expected in zip(torch.autograd.grad(found, weights), torch.autograd.grad(whole, weights), strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-11)


def reference(a, *shape):
    """The reference input of that name: sin(0.7 i + a) + 0.1 j, i the flat index and j that in the last dimension."""
    flat = torch.sin(0.7 * torch.arange(math.prod(shape), dtype=torch.float64) + a).reshape(shape)
    return flat + 0.1 * torch.arange(shape[-1], dtype=torch.float64)


def test_values_of_the_official_loss():
    """Three images, two global and two local views of five patches, six prototypes; centres zero, teacher temperature 0.07.

    The authors' code adds two shares: over pairs with local views, four of six, and over pairs of the global views.
    """
    students, local = torch.stack(reference(0, 6, 6).chunk(2), dim=1), torch.stack(reference(2, 6, 6).chunk(2), dim=1)
    teachers = (torch.stack(reference(1, 6, 6).chunk(2), dim=1) / 0.07).softmax(dim=2)
    whole = swapped_cross_entropy(teachers, torch.cat((students, local), dim=1), lambda logits: logits / 0.1).item()
    of_global = 2 / 6 * swapped_cross_entropy(teachers, students, lambda logits: logits / 0.1).item()
    assert (whole - of_global, of_global) == pytest.approx((1.921871, 2.090141), abs=1e-6)
    assert whole == pytest.approx(4.012012, abs=1e-6)
    valid = torch.zeros(6, 5, dtype=torch.bool)
    for crop, places in ((0, [0, 1]), (4, [1, 2, 3]), (5, [4])):
        valid[crop, places] = True
    rows = reference(4, 6, 5, 6), reference(3, 6, 5, 6)
    assign, predict = (lambda logits: (logits / 0.07).softmax(dim=-1)), (lambda logits: logits / 0.1)
    assert masked_cross_entropy(*rows, valid, assign, predict, 6).item() == pytest.approx(1.646340, abs=1e-6)
    # The method knows which view is masked, and gives the masked ones alone: half of the mean over those is the same.
    chosen = [0, 4, 5]
    found = masked_cross_entropy(*(values[chosen] for values in rows), valid[chosen], assign, predict, 6) / 2
    assert found.item() == pytest.approx(1.646340, abs=1e-6)


def test_sinkhorn_targets_of_the_official_code():
    teachers = reference(1, 6, 6)
    expected = [0.384592, 0.333370, 0.282037, 0.000001, 0, 0]  # of the second crop of the first image
    assert sinkhorn(teachers, 0.07, 3)[3].tolist() == pytest.approx(expected, abs=1e-6)
    center = sinkhorn_center(lambda rows: rows, teachers, torch.ones(6, dtype=torch.bool), 6, 0.07, 3)
    assert ((teachers - center) / 0.07).softmax(dim=1)[3].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("limit", [2**25, 20, 1])
@pytest.mark.parametrize("iterations", [0, 1, 3])
def test_sinkhorns_center_is_that_of_the_valid_rows(iterations, limit, monkeypatch):
    monkeypatch.setattr(chunks, "_LOGITS", limit)
    rows, valid = reference(1, 8, 5), torch.tensor([1, 0, 1, 1, 0, 1, 1, 0]).bool()
    center = sinkhorn_center(lambda rows: rows, rows, valid, 5, 0.07, iterations)
    found = ((rows - center) / 0.07).softmax(dim=1)[valid]
    expected = sinkhorn(rows[valid], 0.07, iterations) if iterations else (rows[valid] / 0.07).softmax(dim=1)
    torch.testing.assert_close(found, expected.to(found.dtype), rtol=1e-5, atol=1e-7)


def test_sinkhorns_center_of_padding_alone_is_finite():
    center = sinkhorn_center(lambda rows: rows, reference(1, 8, 5), torch.zeros(8, dtype=torch.bool), 5, 0.07, 3)
    assert ((reference(1, 8, 5) - center) / 0.07).softmax(dim=1).isfinite().all()


class TestKoLeo:
    def test_values(self):
        assert koleo(reference(5, 4, 8)).item() == pytest.approx(0.779813, abs=1e-6)
        assert koleo(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])).item() == pytest.approx(-0.34657, abs=1e-5)
        assert koleo(torch.tensor([[3.0, 0.0], [-1.0, 0.0]])).item() == pytest.approx(-math.log(2), abs=1e-6), "opposites are neighbours"

    def test_of_identical_rows_is_finite_and_so_are_its_gradients(self):
        for dtype in (torch.float32, torch.bfloat16):
            rows = torch.ones(3, 384, dtype=dtype).requires_grad_()
            loss = koleo(rows)
            loss.backward()
            assert loss.item() == pytest.approx(15.4, abs=0.1) and rows.grad.isfinite().all()

    def test_depends_on_directions_alone_and_rewards_distance(self):
        rows = reference(5, 4, 8)
        torch.testing.assert_close(koleo(rows * torch.tensor([[1.0], [2], [0.1], [30]])), koleo(rows))
        assert koleo(torch.eye(4).double()) < koleo(rows)

    def test_needs_a_neighbour(self):
        with pytest.raises(InputError, match="koleo_weight needs two images"):
            koleo(torch.ones(1, 4))
        assert method(koleo_weight=0.0)(views(count=1), progress(count=1))["loss"].isfinite()

    def test_is_of_the_encoders_features_before_the_heads(self):
        model, pixels = method(), views()
        before = model(pixels, progress())
        with torch.no_grad():
            for name in ("head", "patch_head"):
                for parameter in model.student[name].parameters():
                    parameter.mul_(1.5)
        after = model(pixels, progress())
        assert after["koleo_loss"] == before["koleo_loss"] and after["image_loss"] != before["image_loss"]


def test_each_of_eighteen_pairs_has_the_same_weight_and_teachers_are_paired_crosswise():
    targets, views = reference(1, 3, 2, 6).softmax(dim=2), reference(0, 3, 10, 6)
    found = swapped_cross_entropy(targets, views, lambda logits: logits / 0.1)
    pairs = [[-(targets[:, g] * (views[:, v] / 0.1).log_softmax(dim=1)).sum(dim=1).mean() for v in range(10) if v != g] for g in range(2)]
    torch.testing.assert_close(found, sum(map(sum, pairs)) / 18)
    assert abs(found - swapped_cross_entropy(targets.flip(1), views, lambda logits: logits / 0.1)) > 1e-3


def test_one_of_an_images_global_views_is_masked_as_the_official_code_masks():
    """58.2 of 14 x 14 patches on average, at most half of them; the authors mask half of a device's views."""
    now, model = Progress(0, 10, 0, 0, torch.arange(4000)), method(False, encoder="dinov2-xs4", image_size=56)
    both, masked, valid = model._masks([torch.empty(4000, 3, 56, 56)] * 2, now)
    counts = torch.stack([mask.sum(dim=1) for mask in both])
    assert (counts > 0).sum(dim=0).max() == 1 and (counts[0] > 0).float().mean() == pytest.approx(0.5, abs=0.03)
    assert masked.shape == valid.shape == (4000, 98) and counts.sum(dim=0).float().mean() == pytest.approx(58.2, rel=0.02)
    assert torch.equal(valid.sum(dim=1), counts.sum(dim=0)) and torch.equal(torch.cat(both, dim=1).gather(1, masked), valid)
    part = model._masks([torch.empty(10, 3, 56, 56)] * 2, Progress(0, 10, 0, 0, torch.arange(50, 60)))
    assert torch.equal(part[0][0], both[0][50:60]) and torch.equal(part[1], masked[50:60]), "whatever batch it is in"


def test_centers_move_after_the_step_and_the_patches_is_that_of_masked_ones():
    model, pixels = method(centering="softmax", shared_head=False), views()
    out = model(pixels, progress())
    hidden = masks()
    with torch.no_grad():
        images, patches = [], []
        for i in range(COUNT):
            for v in range(2):
                token, of_patches = plain_tokens(model.teacher["backbone"], pixels[v][i])
                images.append(plain_logits(model.teacher["head"], token))
                if hidden[i][v] is not None:
                    patches += [plain_logits(model.teacher["patch_head"], of_patches[p]) for p in range(16) if hidden[i][v][p]]
    before = model.center.clone(), model.patch_center.clone()
    model.after_step({name: value.detach() for name, value in out.items() if value.ndim}, progress())
    torch.testing.assert_close(model.center, 0.9 * before[0] + 0.1 * torch.stack(images).mean(dim=0))
    torch.testing.assert_close(model.patch_center, 0.9 * before[1] + 0.1 * torch.stack(patches).mean(dim=0))
    kept = model.patch_center.clone()
    nothing = {"teacher_mean": out["teacher_mean"].detach(), "teacher_patch_sum": 0 * kept, "masked_patches": torch.zeros(1, 1).long()}
    model.after_step(nothing, progress())
    assert torch.equal(model.patch_center, kept), "a step without any masked patch leaves it alone"


def test_temperature_rises_step_by_step_over_the_first_share_of_the_run():
    model, pixels = method(koleo_weight=0.0), views()
    for step, temperature in ((0, 0.04), (15, 0.04 + 0.03 * 15 / 29), (30, 0.07)):
        out = model(pixels, progress(step, 100))
        expected = plain_loss(model, pixels, temperature)
        torch.testing.assert_close((out["image_loss"], out["patch_loss"]), tuple(loss.detach() for loss in expected[:2]))


def test_student_sees_the_encoders_own_mask_token_and_publishes_it():
    model, pixels = method(), views()
    token = model.student["backbone"].embeddings.mask_token
    before = model(pixels, progress())
    assert token.requires_grad and not hasattr(model, "mask_token")
    with torch.no_grad():
        token.normal_()
    after = model(pixels, progress())
    assert after["patch_loss"] != before["patch_loss"] and after["usage_entropy"] == before["usage_entropy"]
    model.after_step({}, progress())
    assert not torch.equal(model.encoder.embeddings.mask_token, torch.zeros_like(token))
    assert method(encoder="vit-xs4", changed=False).mask_token.shape == (64,), "a family without one"


def test_registers_differ_from_the_first_step_on():
    registers = method(changed=False, registers=True).student["backbone"].embeddings.register_tokens[0]
    assert registers.std(dim=0).min() > 0 and registers.abs().max() < 1e-5


def test_heads_are_clipped_and_frozen_by_themselves_and_layers_have_their_rates():
    model = method()
    recipe = read_recipe("imagenet1k/dinov2")
    optimizer = make_optimizer(encoder_groups(model, recipe), "adamw", 0.04, 0.9, (0.9, 0.999), False)
    (1000 * model(views(), progress())["loss"]).backward()
    clip_gradients(optimizer, recipe.clip, recipe.clip_norm)
    for part in model.student.values():
        gradients = [parameter.grad for parameter in part.parameters() if parameter.grad is not None]
        assert torch.stack([gradient.norm() for gradient in gradients]).norm().item() == pytest.approx(3.0, rel=1e-4)
    groups = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    networks = [
        {groups[id(parameter)]["network"] for parameter in part.parameters() if id(parameter) in groups} for part in model.student.values()
    ]
    assert [len(names) for names in networks] == [1, 1, 1] and len(set.union(*networks)) == 3
    backbone = model.student["backbone"]
    blocks = [layer.mlp.fc1.weight for layer in backbone.encoder.layer]
    factors = [groups[id(parameter)]["lr_factor"] for parameter in (
        backbone.embeddings.patch_embeddings.projection.weight, backbone.embeddings.mask_token, *blocks, backbone.layernorm.weight,
        model.student["head"].mlp[0].weight,
    )]  # fmt: skip
    assert factors == pytest.approx([0.2 * 0.9**3, 0.9**3, 0.9**2, 0.9, 1.0, 1.0])
    set_learning_rates(optimizer, 1.0, 1.0, 0)
    frozen = {id(parameter) for group in optimizer.param_groups if group["lr"] == 0 for parameter in group["params"]}
    last = [parameter for name in ("head", "patch_head") for parameter in model.student[name].last_layer()]
    assert len(last) == 4 and frozen == {id(parameter) for parameter in last}
    assert all(groups[id(parameter)]["decayed"] for parameter in [*last, backbone.embeddings.cls_token, backbone.embeddings.mask_token])
    scales = [layer.layer_scale1.lambda1 for layer in backbone.encoder.layer]
    assert not any(groups[id(parameter)]["decayed"] for parameter in scales), "LayerScale would decay to 0"


@pytest.mark.parametrize(("encoder", "parameters"), [("dinov2-s16", 22_352_128), ("dinov2-l16", 23_662_848)])
def test_heads_have_the_official_parameters(encoder, parameters):
    with torch.device("meta"):
        model = DINOv2(DINOv2Config(encoder=encoder))
    assert [sum(value.numel() for value in model.student[name].parameters()) for name in ("head", "patch_head")] == [parameters] * 2
    if encoder == "dinov2-s16":
        assert sum(value.numel() for value in model.student["backbone"].parameters()) == 21_675_264


def test_schedules_of_the_official_run():
    """Of 100 steps with 10 of warm-up, peak 0.004 and end 1e-6: the peak comes twice."""
    rates = [0.004 * lr_factor("annealing_per_step", step, 1, 100, 10, 1e-6 / 0.004, 0.0) for step in (0, 5, 9, 10, 50, 99)]
    assert rates == pytest.approx([0, 0.00222222, 0.004, 0.004, 0.00234771, 2.21804e-06], rel=1e-5)
    assert [weight_decay_at(0.04, 0.4, step, 100) for step in (0, 50, 99)] == pytest.approx([0.04, 0.22, 0.399911], abs=5e-7)
    assert [momentum_schedule(0.992, 1.0, step / 100) for step in (0, 50, 99)] == pytest.approx([0.992, 0.996, 0.999998], abs=5e-7)


def test_recipe_is_the_official_one():
    recipe = read_recipe("imagenet1k/dinov2")
    steps = recipe.epochs * (1_281_167 // recipe.batch_size)
    config = recipe.method_config()
    assert steps == 125_000 and recipe.warmup_epochs * 625 == 12_500 and config.frozen_epochs * 625 == 1250
    assert recipe.lr * math.sqrt(2048) == pytest.approx(0.004 * math.sqrt(2048 / 1024))
    assert recipe.lr * math.sqrt(2048) * recipe.final_lr == pytest.approx(1e-6, rel=1e-3)
    assert (recipe.layer_decay, recipe.patch_lr_factor, recipe.drop_path, recipe.drop_path_uniform) == (0.9, 0.2, 0.3, True)
    assert (recipe.clip, recipe.clip_norm, recipe.weight_decay, recipe.weight_decay_end) == ("network", 3.0, 0.04, 0.4)
    assert (config.shared_head, config.centering, config.prototypes, config.teacher_momentum) == (True, "softmax", 65536, 0.992)
    first, second, local = DINOv2.views(224).values()
    assert (first.scale, second.scale, local.scale, local.count, local.size) == ((0.32, 1.0), (0.32, 1.0), (0.05, 0.32), 8, 96)
    assert read_recipe("imagenet1k/dinov2", {"encoder": "dinov2-s14"}).make_views()["local"].size == 98
    assert [(view.blur, view.solarize) for view in (first, second, local)] == [(1.0, 0.0), (0.1, 0.2), (0.5, 0.0)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": "res6"}, "ViT"), ({"smallest_mask_ratio": 0.6}, "largest_mask_ratio"), ({"masked_views": 3}, "choose 1 or 2"),
        ({"centering": "mean"}, "choose 'sinkhorn' or 'softmax'"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(changes, message):
    with pytest.raises(Exception, match=message):
        method(**{"changed": False, **changes})


def test_global_views_of_two_sizes_are_refused():
    first, _, *local = views()
    with pytest.raises(InputError, match="16 and 8 px: must be of one size"):
        method()([first, local[0]], progress())
