"""Drop path while a method trains: who drops what, that the work is saved, and that it depends on image, view and epoch alone."""

import pytest
import torch
from families import FAMILIES, SIZE, random_encoder
from small_digits import small_digits
from test_training import same_weights, train, train_until
from torch import nn
from torch._dynamo.testing import CompileCounter

from sslzoo.encoders import build_encoder, features, residual_branches, tokens
from sslzoo.errors import InputError
from sslzoo.method import Progress
from sslzoo.parts.drop_path import GROUP, add_drop_path
from sslzoo.parts.ema import frozen_copy
from sslzoo.recipe import read_recipe, rehearse
from sslzoo.views import hash_words, uniform

WITH_BRANCHES = [name for name in FAMILIES if name != "resnet"]


class Net(nn.Module):
    """Stands for a method: a student, which sees every view in one batch or one by one, and a teacher."""

    def __init__(self, name, joint=True):
        super().__init__()
        self.joint = joint
        self.student = random_encoder(name).train()
        self.teacher = frozen_copy(self.student)
        self.encoder = self.student

    def forward(self, views, progress):
        with torch.no_grad():
            teacher = features(self.teacher, torch.cat(views))
        return self.loss(views), teacher

    def loss(self, views):
        if self.joint:
            return features(self.student, torch.cat(views))
        return torch.cat([features(self.student, view) for view in views])


def net(name="vit", rate=0.3, *, is_uniform=True, joint=True, seed=0):
    made = Net(name, joint)
    add_drop_path(made, rate, seed, is_uniform=is_uniform)
    return made


def progress(first=0, count=GROUP, epoch=0):
    return Progress(0, 10, epoch, 5, torch.arange(first, first + count))


def views(count=GROUP, number=2):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(count, 3, SIZE, SIZE, generator=generator) for _ in range(number)]


@pytest.mark.parametrize("name", WITH_BRANCHES)
def test_students_drop_and_teachers_and_evaluation_do_not(name):
    method, images = net(name), views()
    with torch.no_grad():
        plain = features(method.teacher, torch.cat(images))
    student, teacher = method(images, progress())
    assert torch.equal(teacher, plain) and not torch.allclose(student, plain, atol=1e-2)
    assert torch.isfinite(student).all()
    with torch.no_grad():
        assert torch.equal(method(images, progress())[0], plain), "no student learns here"
    outside = features(method.student, torch.cat(images))
    torch.testing.assert_close(outside, plain, rtol=1e-3, atol=1e-4)
    assert torch.equal(method.eval()(images, progress())[0], outside)


@pytest.mark.parametrize("is_uniform", [True, False])
@pytest.mark.parametrize("name", WITH_BRANCHES)
def test_does_not_depend_on_devices_or_on_views_in_one_batch(name, is_uniform):
    """Two devices with half of the images each, and views one by one."""
    images = views(2 * GROUP)
    whole = net(name, 0.4, is_uniform=is_uniform)(images, progress(count=2 * GROUP))[0]
    halves = [
        net(name, 0.4, is_uniform=is_uniform, joint=rank == 0)([view[rank * GROUP :][:GROUP] for view in images], progress(rank * GROUP))[0]
        for rank in (0, 1)
    ]
    expected = torch.cat([half.view(2, GROUP, -1) for half in halves], dim=1).flatten(0, 1)
    torch.testing.assert_close(whole, expected, rtol=1e-3, atol=1e-4)


def test_other_images_views_epochs_and_seeds_drop_others():
    image = views()[0]

    def features_of(first=0, epoch=0, seed=0):
        with torch.no_grad():
            before = features(net().student, image)
        return (net(seed=seed)([image, image], progress(first, epoch=epoch))[0].view(2, GROUP, -1) - before).abs().sum(2)

    first, second = features_of()
    assert not torch.allclose(first, second, atol=1e-3), "two views of one image"
    for other in (features_of(first=GROUP), features_of(epoch=1), features_of(seed=1)):
        assert not torch.allclose(first, other[0], atol=1e-3)
    assert torch.equal(first, features_of()[0])


def test_above_a_tenth_it_keeps_the_same_number_of_every_group_and_computes_no_others():
    """int(32 * 0.7) = 22 of 32, whose outputs are multiplied by 32 / 22; the 22 with the smallest numbers, by hand."""
    method, images, given, found = net("vit", 0.3), views(2 * GROUP), [], []
    attention = residual_branches(method.student)[0][0].first
    attention.register_forward_pre_hook(lambda module, arguments: given.append(arguments[0]))
    attention.register_forward_hook(lambda module, arguments, output: found.append(output[0]))
    with torch.no_grad():
        hidden = method.student.layers[0].layernorm_before(method.student.embeddings(torch.cat(images)))
    method(images, progress(count=2 * GROUP))
    words = torch.tensor([hash_words(0, 0, -6 - view) for view in (0, 1)])
    numbers = uniform(torch.arange(2 * GROUP), 4, words)[:, :, 0].T.reshape(-1, GROUP)
    kept = torch.stack([row < row.sort().values[22] for row in numbers]).flatten()
    assert given[0].shape[0] == 4 * 22 and torch.equal(*(rows.detach()[:, 0, 0].sort().values for rows in (given[0], hidden[kept])))
    with torch.no_grad():
        expected = attention(hidden)[0] * kept[:, None, None] * 32 / 22
    torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["vit", "dinov3_vit"])
def test_of_images_with_tokens_left_out_it_drops_the_same(name):
    """Each image has rotations of its own then, those of its kept patches. Against branches computed for all images and set to 0."""
    images = torch.cat(views()).double()
    keep = torch.rand(len(images), 16, generator=torch.Generator().manual_seed(2)).argsort(1)[:, :5]
    method, plain = net(name, 0.4).double(), random_encoder(name).train().double()
    method.loss = lambda views: tokens(method.student, torch.cat(views), keep=keep)
    numbers = uniform(torch.arange(GROUP), 4, torch.tensor([hash_words(0, 0, -6 - view) for view in (0, 1)]))

    def scaled(factors):
        return lambda module, arguments, out: (out[0] * factors, *out[1:]) if isinstance(out, tuple) else out * factors

    for index, branch in enumerate(branch for block in residual_branches(plain) for branch in block):
        of_views = numbers[:, :, index].T.reshape(-1, GROUP)
        kept = torch.stack([row < row.sort().values[19] for row in of_views]).flatten()  # int(32 * 0.6)
        branch.last.register_forward_hook(scaled(kept[:, None, None].double() * 32 / 19))
    found, expected = method(images.chunk(2), progress())[0], tokens(plain, images, keep=keep)
    torch.testing.assert_close(found, expected)
    found.square().sum().backward()
    expected.square().sum().backward()
    for (key, own), other in zip(method.student.named_parameters(), plain.parameters(), strict=True):
        if other.grad is not None:
            torch.testing.assert_close(own.grad, other.grad, msg=key)


def test_up_to_a_tenth_each_image_decides_by_itself():
    """For any number of images; rates 0 and 0.1 of two blocks."""
    method, images, found = net("vit", 0.1, is_uniform=False), views(50, 1), []
    (first, _), (second, _) = residual_branches(method.student)
    for branch in (first, second):
        branch.last.register_forward_hook(lambda module, arguments, output: found.append(output[0].detach()))
    with torch.no_grad():
        features(method.student, images[0])
    method(images, progress(count=50))
    assert torch.equal(found[0], found[2]), "the first block drops nothing"
    numbers = uniform(torch.arange(50), 4, torch.tensor([hash_words(0, 0, -6)]))[:, 0, 2]
    dropped = found[3].flatten(1).abs().sum(1) == 0
    assert torch.equal(dropped, numbers < 0.1) and 0 < dropped.sum() < 15


def test_expectation_is_that_without_drop_path():
    """The mean over many epochs of the first branch's output, whose input does not vary."""
    method, image, found = net("vit", 0.5), views(number=1), []
    residual_branches(method.student)[0][0].last.register_forward_hook(lambda module, arguments, output: found.append(output[0].detach()))
    for epoch in range(200):
        method(image, progress(epoch=epoch))
    mean = torch.stack(found).mean(0)
    features(method.student, image[0])
    assert float((mean - found[-1]).norm() / found[-1].norm()) < 0.1


def test_loss_is_one_graph():
    method = net("vit", 0.3)
    counter = CompileCounter()
    torch._dynamo.reset()
    method.loss = torch.compile(method.loss, backend=counter, fullgraph=True)
    for epoch in range(3):
        images = views()
        compiled = method(images, progress(epoch=epoch))[0]
        plain = net("vit", 0.3)(images, progress(epoch=epoch))[0]
        torch.testing.assert_close(compiled, plain)
    torch._dynamo.reset()
    assert counter.frame_count == 1


class TestRuns:
    CHANGES = {
        "encoder": "vit-xs4", "dataset": small_digits(), "batch_size": 32, "epochs": 2, "drop_path": 0.3, "drop_path_uniform": True,
        "knn_every": 0, "test_split": None, "warmup_epochs": 0, "hidden_dim": 16, "projection_dim": 16, "checkpoint_every": 3,
    }  # fmt: skip

    def recipe(self, **changes):
        return read_recipe("digits/simclr", {**self.CHANGES, **changes})

    @pytest.mark.slow
    def test_a_resumed_run_ends_as_if_nothing_had_happened(self, tmp_path, monkeypatch):
        train(self.recipe(), tmp_path / "whole")
        train(self.recipe(drop_path=0.0), tmp_path / "without")
        train_until(3, self.recipe(), tmp_path / "stopped", monkeypatch)
        train(self.recipe(), tmp_path / "stopped", resume=True)
        assert same_weights(tmp_path / "whole", tmp_path / "stopped") and not same_weights(tmp_path / "whole", tmp_path / "without")

    def test_what_cannot_be_dropped_is_refused_before_anything_is_read(self):
        with pytest.raises(InputError, match="drop_path is for transformers and ConvNeXts: 'sslzoo"):
            rehearse(self.recipe(encoder="res6"), 32, torch.device("cpu"))
        with pytest.raises(InputError, match="make batch_size a multiple of 32 images"):
            rehearse(self.recipe(), 16, torch.device("cpu"))
        rehearse(self.recipe(drop_path=0.1), 16, torch.device("cpu"))


def test_encoders_own_drop_path_stays_off():
    assert all(getattr(module, "drop_prob", 0.0) in (0.0, None) for module in build_encoder(FAMILIES["swin"]).modules())
