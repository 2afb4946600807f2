"""Several views through one network: in one batch, with batch norms that see them together or apart."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from sslzoo import method_class
from sslzoo.encoders import build_encoder, encoder_config, feature_width
from sslzoo.method import MethodConfig, Progress
from sslzoo.methods import dino, vicregl
from sslzoo.parts import masked_siamese
from sslzoo.parts.networks import Branch, forward_apart, forward_views, mlp
from sslzoo.parts.split_batch_norm import split_batch_norms

VIEWS = (torch.full((2, 3, 4, 4), 1.0), torch.full((2, 3, 4, 4), 2.0), torch.full((2, 3, 2, 2), 3.0), torch.full((2, 3, 4, 4), 4.0))


def owner(network, joint):
    """What `forward_views` takes for a method."""
    method = nn.Module()
    method.network, method.config = network, MethodConfig(encoder="res6", joint_views=joint)
    return method


def rows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("joint", [True, False])
def test_keeps_the_order_in_one_batch_for_consecutive_views_of_one_size_if_joint(joint):
    batches = []

    def network(pixels):
        batches.append(len(pixels))
        return pixels.mean(dim=(2, 3))

    outputs = forward_views(owner(nn.Identity(), joint), network, list(VIEWS))
    assert [output.tolist() for output in outputs] == [[[value] * 3] * 2 for value in (1.0, 2.0, 3.0, 4.0)]
    # Apart, a CPU forwards them one by one.
    assert batches == ([4, 2, 2] if joint else [2, 2, 2, 2])


def test_joint_views_share_their_batch_norm_and_others_do_not():
    norm = nn.BatchNorm1d(1, affine=False)
    views = [torch.tensor([[1.0], [1.0]]), torch.tensor([[3.0], [3.0]])]
    joint = [output.flatten().tolist() for output in forward_views(owner(norm, True), norm, views)]
    assert joint[0] == pytest.approx([-1, -1], abs=1e-4) and joint[1] == pytest.approx([1, 1], abs=1e-4)
    for apart in (forward_views(owner(norm, False), norm, views), forward_apart(norm, norm, views)):
        assert [output.flatten().tolist() for output in apart] == [[0, 0], pytest.approx([0, 0], abs=1e-3)]


@pytest.mark.parametrize("kind", ["resnet", "vit", "split", "no affine"])
def test_views_apart_equal_one_forward_per_view(kind):
    """Outputs, gradients and running statistics, in three steps."""
    torch.manual_seed(0)
    backbone = build_encoder(encoder_config("vit-xs4" if kind == "vit" else "res6", 16))
    if kind == "split":
        split_batch_norms(backbone, 2)
    last_norm = partial(nn.BatchNorm1d, affine=False) if kind == "no affine" else None
    network = Branch(backbone, mlp((feature_width(backbone), 16, 8), last_norm=last_norm)).double().train()
    single, names = copy.deepcopy(network), list(network.state_dict())
    for step in range(3):
        pixels = [rows(4, 3, size, size, seed=10 * step + size) for size in (16, 16, 16, 8, 8)]
        apart, expected = forward_apart(network, network, pixels), [single(view) for view in pixels]
        for outputs in (apart, expected):
            sum((output * rows(4, 8, seed=index)).sum() for index, output in enumerate(outputs)).backward()
        torch.testing.assert_close(torch.stack(apart), torch.stack(expected), rtol=1e-9, atol=1e-11)
    gradients = [[parameter.grad for parameter in each.parameters() if parameter.grad is not None] for each in (network, single)]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(network.state_dict(), single.state_dict(), rtol=1e-10, atol=1e-12)
    assert list(network.state_dict()) == names


def test_networks_may_take_and_give_several_tensors_for_each_view():
    """Views of one size whose other inputs differ in shape go through apart."""
    shapes = []

    def network(pixels, visible):
        shapes.append((*pixels.shape, visible.shape[1]))
        return pixels.sum(dim=(1, 2, 3)), visible + 1

    visible = [rows(2, count, seed=count) for count in (3, 3, 5, 2)]
    views = [VIEWS[0], VIEWS[1], VIEWS[3], VIEWS[2]]
    outputs = forward_views(owner(nn.Identity(), True), network, views, visible)
    assert shapes == [(4, 3, 4, 4, 3), (2, 3, 4, 4, 5), (2, 3, 2, 2, 2)]
    for (total, shifted), view, its_visible in zip(outputs, views, visible, strict=True):
        assert torch.equal(total, view.sum(dim=(1, 2, 3))) and torch.equal(shifted, its_visible + 1)


@pytest.mark.parametrize(("name", "where"), [("dino", dino), ("vicregl", vicregl), ("msn", masked_siamese)])
def test_methods_have_the_same_loss_and_gradients_with_views_apart_in_one_batch(name, where, monkeypatch):
    """As on a GPU, in float64."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.manual_seed(0)
    config = method_class(name).config_class
    small = {key: 32 for key, value in config.hyperparameters().items() if isinstance(value, int) and value > 256}
    encoder = "vit-xs4" if name == "msn" else "res6"
    method = method_class(name)(config(encoder=encoder, image_size=16, joint_views=False, **small)).double().train()
    sizes = [view.size for view in method.views(16).values() for _ in range(view.count)]
    views = [rows(4, 3, size, size, seed=index) for index, size in enumerate(sizes)]
    crops = [torch.tensor([[0, 0, 10 + index, 12, 0, index % 2]]).repeat(4, 1) for index in range(len(views))]
    progress = Progress(1, 10, 5, 0, torch.arange(4), lambda: crops)
    twin, batches = copy.deepcopy(method), []
    for module in twin.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(lambda module, inputs: batches.append(len(inputs[0])))
    expected = method(views, progress)["loss"]
    monkeypatch.setattr(where, "forward_views", forward_apart)
    found = twin(views, progress)["loss"]
    assert max(batches) > 4, "views go through together"
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)
    for each in (expected, found):
        each.backward()
    torch.testing.assert_close(*([weight.grad for weight in each.parameters() if weight.grad is not None] for each in (twin, method)))
    torch.testing.assert_close(twin.state_dict(), method.state_dict())


def test_a_batch_norm_is_as_before_afterwards_even_after_an_error():
    norm = nn.BatchNorm1d(1)
    before = set(vars(norm))
    with pytest.raises(ValueError, match="expected 2D or 3D input"):
        forward_apart(norm, norm, [torch.zeros(2), torch.zeros(2)])
    assert set(vars(norm)) == before


def test_any_batch_norm_is_called_once_per_view():
    """As synchronised ones must be, which cannot run here."""
    calls = []

    class Synchronised(nn.SyncBatchNorm):
        def forward(self, inputs):
            calls.append(inputs.flatten().tolist())
            return inputs

    norm = Synchronised(1)
    forward_apart(norm, norm, [torch.full((2, 1), value) for value in (1.0, 2.0, 3.0)])
    assert calls == [[1, 1], [2, 2], [3, 3]]


def test_compiled_networks_are_not_compiled_again():
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    compiled = CompileCounter()
    network.compile(backend=compiled)
    for _ in range(3):
        forward_apart(network, network, [rows(4, 2).float(), rows(4, 2).float()])
    assert compiled.frame_count == 1
