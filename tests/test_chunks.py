"""Losses in chunks of rows: the same numbers and gradients, and less memory."""

import pytest
import torch

from sslzoo import NNCLR, MoCoV2, MoCoV2Config, NNCLRConfig
from sslzoo.parts import chunks
from sslzoo.parts.decoupled import decoupled
from sslzoo.parts.masked_siamese import assignment_cross_entropy
from sslzoo.parts.nt_xent import nt_xent
from sslzoo.parts.swapped_prediction import swapped_cross_entropy

COUNT, WIDTH, QUEUE = 40, 6, 64


def rows(seed):
    return torch.randn(COUNT, WIDTH, generator=torch.Generator().manual_seed(seed)).double().requires_grad_()


def method(kind, config):
    torch.manual_seed(0)
    return kind(config(encoder="res6", image_size=16, hidden_dim=8, projection_dim=WIDTH, queue_length=QUEUE)).double()


def moco(first, second):
    return method(MoCoV2, MoCoV2Config)._contrast(first, second.detach()) + second.sum()


def nnclr(first, second):
    return method(NNCLR, NNCLRConfig)._contrast(first.detach(), second) + first.sum()


PROTOTYPES = rows(2).detach().repeat(2, 1)[:QUEUE]
TARGETS = (torch.stack((rows(3), rows(4)), dim=1).detach() @ PROTOTYPES.T).softmax(dim=2)


def swapped(first, second):
    """Two global views and a local one."""
    embeddings = torch.stack((first, second, first * second), dim=1)
    return swapped_cross_entropy(TARGETS, embeddings, lambda embeddings: embeddings @ PROTOTYPES.T / 0.3)


def masked(first, second):
    cross_entropy, mean = assignment_cross_entropy(torch.stack((first, second), dim=1), PROTOTYPES[:COUNT], PROTOTYPES, 0.3, 0.25)
    return cross_entropy + mean.square().sum()


LOSSES = {
    "nt_xent": lambda first, second: nt_xent(first, second, 0.2),
    "decoupled": lambda first, second: sum(values.mul(values.detach().cos()).sum() for values in decoupled(first, second, 0.2)),
    "moco": moco, "nnclr": nnclr, "swapped": swapped, "masked": masked,
}  # fmt: skip


def saved_bytes(loss, pair):
    """The loss, its gradients, and the bytes of the tensors that the backward pass keeps."""
    storages = {}

    def pack(value):
        storages[value.untyped_storage().data_ptr()] = value.untyped_storage()  # kept, so that no address comes twice
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        total = loss(*pair)
    return total, torch.autograd.grad(total, pair), sum(storage.nbytes() for storage in storages.values())


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("limit", [500, 1])
def test_chunks_give_the_loss_and_gradients_of_the_whole_and_keep_less(name, limit, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # the losses are computed in float32 otherwise
    pair = rows(0), rows(1)
    expected, expected_gradients, whole = saved_bytes(LOSSES[name], pair)
    monkeypatch.setattr(chunks, "_LOGITS", limit)
    found, gradients, kept = saved_bytes(LOSSES[name], pair)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-10, atol=1e-13)
    assert kept < whole / 2, (kept, whole)


@pytest.mark.parametrize("name", ["swapped", "masked"])
def test_chunks_are_one_graph(name, monkeypatch):
    monkeypatch.setattr(chunks, "_LOGITS", 1000)
    pair = rows(0), rows(1)
    torch._dynamo.reset()
    compiled = torch.compile(LOSSES[name], backend="aot_eager", fullgraph=True)(*pair)
    torch._dynamo.reset()
    expected = LOSSES[name](*pair)
    torch.testing.assert_close(compiled, expected)
    torch.testing.assert_close(torch.autograd.grad(compiled, pair), torch.autograd.grad(expected, pair))


def test_a_chunk_has_at_most_as_many_logits_as_the_limit(monkeypatch):
    shapes = []

    def function(values):
        shapes.append(tuple(values.shape))
        return values.sum(dim=1)

    monkeypatch.setattr(chunks, "_LOGITS", 100)
    values = torch.arange(40.0).view(10, 4)
    assert torch.equal(chunks.in_chunks(function, (values,), 30), values.sum(dim=1))
    assert shapes == [(3, 4), (3, 4), (3, 4), (1, 4)]
    assert chunks.in_chunks(function, (values,), 10).shape == (10,) and shapes[4:] == [(10, 4)], "as many as the limit are one chunk"
