"""A transformer's blocks: which they are, how deep each weight lies, and stochastic depth."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sslzoo.errors import InputError

_BRANCHES = (("attention", "self_attn"), ("mlp",))  # what transformers calls a block's two residual branches


def blocks(encoder: PreTrainedModel) -> nn.ModuleList:
    """The blocks in the order in which they compute, each with an attention and an MLP. Raises `InputError` for encoders without."""
    count = getattr(encoder.config, "num_hidden_layers", None)
    for module in encoder.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count and all(len(_branches(block)) == 2 for block in module):
            return module
    raise InputError(f"a transformer such as a ViT is needed, whose blocks can be told apart: '{encoder.config.model_type}' has none")


def depths(encoder: PreTrainedModel) -> dict[str, int]:
    """How deep each parameter lies, by its name: 0 before the blocks, i + 1 in block i, blocks + 1 behind them. Raises `InputError`."""
    parts = blocks(encoder)
    inside = {id(parameter): index for index, block in enumerate(parts, 1) for parameter in block.parameters()}
    found, outside = {}, 0
    for name, parameter in encoder.named_parameters():
        # transformers declares the modules in the order in which they compute.
        if id(parameter) in inside:
            outside = len(parts) + 1
        found[name] = inside.get(id(parameter), outside)
    return found


@contextmanager
def drop_path(encoder: PreTrainedModel, rate: float, numbers: Tensor) -> Iterator[None]:
    """Inside, an encoder in training mode leaves out residual branches at random, for each image others.

    Stochastic depth (Huang and others, arXiv:1603.09382): what is kept is divided by the chance of that. The chance to be left out rises
    linearly, from 0 in the first block to `rate` in the last. The encoder's own drop path, if it has one, is off.

    numbers: random numbers in [0, 1), (images, 2 * blocks): one for each branch of each image of the batch.
    Raises `InputError` for encoders without blocks.
    """
    parts = blocks(encoder)
    rates = torch.linspace(0, rate, len(parts)).repeat_interleave(2).to(numbers.device)
    factors = (numbers >= rates) / (1 - rates)
    branches = [branch for block in parts for branch in _branches(block)]
    own = {module: module.drop_prob for module in encoder.modules() if hasattr(module, "drop_prob")}
    handles = [branch.register_forward_hook(_Scale(column)) for branch, column in zip(branches, factors.unbind(1), strict=True)]
    try:
        for module in own:
            module.drop_prob = 0.0
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module, probability in own.items():
            module.drop_prob = probability


class _Scale:
    """A forward hook that multiplies each image's tokens, which come alone or with attention weights, by the image's factor."""

    def __init__(self, factors: Tensor):
        self.factors = factors

    def __call__(self, module: nn.Module, arguments: tuple, output: Tensor | tuple) -> Tensor | tuple:
        if not module.training:
            return output
        tokens, rest = (output[0], output[1:]) if isinstance(output, tuple) else (output, None)
        scaled = tokens * self.factors[:, None, None].to(tokens.dtype)
        return scaled if rest is None else (scaled, *rest)


def _branches(block: nn.Module) -> list[nn.Module]:
    children = dict(block.named_children())
    return [children[name] for names in _BRANCHES for name in names if name in children]
