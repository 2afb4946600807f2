"""SEED against the paper's cross entropy between two distributions over a queue, in float64; its teacher and its queue by hand."""

import pytest
import torch
from learning import digits_run, digits_teacher, gain
from safetensors.torch import load_file
from tiny_teacher import MEAN, SIZE, STD, tiny_encoder

import sslzoo
from sslzoo import SEED, SEEDConfig
from sslzoo.errors import InputError
from sslzoo.method import Progress
from sslzoo.optim import make_optimizer, set_learning_rates
from sslzoo.parts.distillation import FrozenTeacher
from sslzoo.views import IMAGENET_MEAN, IMAGENET_STD

COUNT = 4
PROGRESS = Progress(0, 10, 0, 0, torch.arange(COUNT))


def method(teacher=True, **changes):
    torch.manual_seed(0)
    values = {"encoder": "res6", "image_size": 16, "teacher_dim": 8, "queue_length": 10, **changes}
    model = SEED(SEEDConfig(**values))
    if teacher:
        model.set_teacher(FrozenTeacher(tiny_encoder(values["teacher_dim"]), mean=MEAN, std=STD, size=SIZE))
    return model.double().train()


def views(seed=0, count=COUNT):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(count, 3, 16, 16, generator=generator, dtype=torch.float64)]


def unit(rows):
    return rows / rows.norm(dim=1, keepdim=True)


def plain_targets(pixels, width=8):
    """The class token of the teacher for the same crop in grey levels of 0 to 1, resized and normalised as the teacher wants it."""
    levels = pixels * torch.tensor(IMAGENET_STD).view(3, 1, 1) + torch.tensor(IMAGENET_MEAN).view(3, 1, 1)
    resized = torch.nn.functional.interpolate(levels, size=(SIZE, SIZE), mode="bilinear", antialias=True)
    normalized = (resized - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    with torch.no_grad():
        return unit(tiny_encoder(width).double()(pixel_values=normalized).last_hidden_state[:, 0])


def plain_loss(model, pixels):
    """-sum over the image itself and the queue of p_teacher * log p_student, a mean over the images."""
    config, queue = model.config, model.queue.rows
    hidden = model.backbone(pixel_values=pixels).last_hidden_state.mean(dim=(2, 3))
    first, _, last = model.projector
    hidden = (hidden @ first.weight.T + first.bias).clamp(min=0) @ last.weight.T + last.bias
    total = 0
    for embedding, target in zip(unit(hidden), plain_targets(pixels), strict=True):
        candidates = [target, *queue]
        student = torch.stack([torch.exp(embedding.dot(other) / config.student_temperature) for other in candidates])
        teacher = torch.stack([torch.exp(target.dot(other) / config.teacher_temperature) for other in candidates])
        total = total - (teacher / teacher.sum() * torch.log(student / student.sum())).sum()
    return total / len(pixels)


@pytest.mark.parametrize("changes", [{}, {"student_temperature": 0.5, "teacher_temperature": 0.07}], ids=["default", "temperatures"])
def test_loss_and_gradients_equal_those_of_the_plain_formulation(changes):
    model, (pixels,) = method(**changes), views()
    out = model([pixels], PROGRESS)
    expected = plain_loss(model, pixels)
    torch.testing.assert_close(out["loss"], expected, rtol=1e-6, atol=0)
    weights = list(model.parameters())
    for ours, plain in zip(torch.autograd.grad(out["loss"], weights), torch.autograd.grad(expected, weights), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(out["targets"], plain_targets(pixels), rtol=1e-6, atol=1e-7)


def test_chunks_of_images_give_the_same(monkeypatch):
    model, pixels = method(), views()
    whole = model(pixels, PROGRESS)["loss"]
    monkeypatch.setattr("sslzoo.parts.chunks._LOGITS", 22)
    torch.testing.assert_close(model(pixels, PROGRESS)["loss"], whole, rtol=1e-12, atol=0)


def test_queue_after_two_steps_by_hand():
    model = method()
    queue, optimizer = model.queue.rows.clone(), make_optimizer(model.parameter_groups(), "sgd", 0.0, 0.9, (0.9, 0.999), True)
    torch.testing.assert_close(queue.norm(dim=1), torch.ones(10, dtype=torch.float64))
    set_learning_rates(optimizer, 0.1, 1.0, 1)
    for step, places in ((0, [0, 1, 2, 3, 4, 5]), (1, [6, 7, 8, 9, 0, 1])):
        pixels, before = views(seed=step, count=6), model.queue.rows.clone()
        out = model(pixels, PROGRESS)
        assert torch.equal(model.queue.rows, before), "this step's targets join the queue after it"
        out["loss"].backward()
        optimizer.step()
        model.after_step({"targets": out["targets"]}, PROGRESS)
        queue[places] = plain_targets(pixels[0])
        torch.testing.assert_close(model.queue.rows, queue, rtol=1e-6, atol=1e-7)


class TestTeacher:
    def test_is_none_of_the_methods_modules_and_follows_it_all_the_same(self):
        model = method()
        weights = [id(parameter) for parameter in model.teacher.parameters()]
        assert len(weights) > 10 and not set(weights) & {id(parameter) for parameter in model.parameters()}
        assert not [name for name in model.state_dict() if name.startswith("teacher")]
        assert {value.dtype for value in model.teacher.state_dict().values()} == {torch.float64}
        assert {value.device.type for value in model.to("meta").teacher.state_dict().values()} == {"meta"}

    def test_stays_as_it_is_in_training(self):
        model = method()
        before = {name: value.clone() for name, value in model.teacher.state_dict().items()}
        model.train()
        out = model([view.requires_grad_() for view in views()], PROGRESS)
        out["loss"].backward()
        assert not any(module.training for module in model.teacher.modules()) and not out["targets"].requires_grad
        assert all(parameter.grad is None and not parameter.requires_grad for parameter in model.teacher.parameters())
        assert all(torch.equal(value, before[name]) for name, value in model.teacher.state_dict().items())

    def test_is_not_published_and_neither_are_its_features(self, tmp_path):
        model = method().to(torch.float32)
        model.after_step({"targets": model([views()[0].to(torch.float32)], PROGRESS)["targets"]}, PROGRESS)
        assert "queue.rows" in model.state_dict(), "checkpoints hold it"
        model.save_pretrained(tmp_path)
        heads = load_file(tmp_path / "ssl_heads.safetensors")
        assert heads.keys() == {f"projector.{layer}" for layer in ("0.weight", "0.bias", "2.weight", "2.bias")}
        loaded = sslzoo.load(tmp_path)
        assert loaded.teacher is None and not hasattr(loaded, "queue")
        with pytest.raises(InputError, match=r"the loss of SEED needs its teacher.*set_teacher\(FrozenTeacher\(encoder\)\)"):
            loaded([views()[0].to(torch.float32)], PROGRESS)
        loaded.set_teacher(FrozenTeacher(tiny_encoder(8)))
        assert torch.isfinite(loaded([views()[0].to(torch.float32)], PROGRESS)["loss"])

    def test_of_another_width_is_refused(self):
        with pytest.raises(InputError, match="teacher_dim is 8: the features of the teacher are 16 wide"):
            method(teacher=False).set_teacher(FrozenTeacher(tiny_encoder(16)))


def test_defaults_are_the_papers():
    config = SEEDConfig()
    assert (config.student_temperature, config.teacher_temperature, config.queue_length) == (0.2, 0.01, 65536)
    view = SEED.views(224)["single"]
    assert (view.count, view.scale, view.blur, view.jitter, view.brightness, view.hue) == (1, (0.2, 1.0), 0.5, 0.8, 0.4, 0.1)


@pytest.mark.slow
def test_training_beats_the_untrained_encoder(tmp_path):
    assert gain(digits_run("digits/seed", tmp_path / "run", teacher=digits_teacher(), epochs=1)) > 0.05
