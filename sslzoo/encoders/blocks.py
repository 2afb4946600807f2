"""A transformer's blocks: finding them, the depth of each parameter, and stochastic depth."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sslzoo.errors import InputError

_BRANCHES = (("attention", "self_attn"), ("mlp", "output"))  # names in transformers of a block's two residual branches


def blocks(encoder: PreTrainedModel) -> nn.ModuleList:
    """The blocks in forward order, each with attention and an MLP. Raises `InputError` for encoders without blocks."""
    lists = [module for module in encoder.modules() if isinstance(module, nn.ModuleList)]
    found = [module for module in lists if len(module) and all(len(_branches(block)) == 2 for block in module)]
    # Several lists are the stages of a hierarchical encoder such as Swin.
    if len(found) == 1 and len(found[0]) == getattr(encoder.config, "num_hidden_layers", None):
        return found[0]
    raise InputError(f"a transformer such as a ViT is needed, whose blocks can be told apart: '{encoder.config.model_type}' has none")


class ResidualBranch(NamedTuple):
    """first: the module that reads the branch's input, one row an image; None where none does. last: whose output is added."""

    first: nn.Module | None
    last: nn.Module


def residual_branches(encoder: PreTrainedModel) -> list[list[ResidualBranch]]:
    """The residual branches of each block that stochastic depth may drop, in forward order. Raises `InputError` where there are none."""
    kind = encoder.config.model_type
    staged = [dict(module.named_children()) for module in encoder.modules() if "drop_path" in dict(module.named_children())]
    if kind == "swin":  # attention reads windows
        return [[ResidualBranch(None, block["drop_path"]), ResidualBranch(block["mlp"], block["mlp"])] for block in staged]
    if kind == "swinv2":  # norms end its branches
        return [[ResidualBranch(None, block[f"layernorm_{place}"]) for place in ("before", "after")] for block in staged]
    if kind in ("convnext", "convnextv2", "dinov3_convnext"):
        return [[ResidualBranch(None, block["drop_path"])] for block in staged]
    try:
        found = [(block, _branches(block)) for block in blocks(encoder)]
    except InputError as error:
        raise InputError(f"drop_path is for transformers and ConvNeXts: '{kind}' has no branches to drop") from error
    return [
        [ResidualBranch(attention, attention), ResidualBranch(getattr(block, "intermediate", feed_forward), feed_forward)]
        for block, (attention, feed_forward) in found
    ]


def depths(encoder: PreTrainedModel) -> dict[str, int]:
    """The depth of each parameter by name: 0 before the blocks, i + 1 in block i, len(blocks) + 1 after them. Raises `InputError`."""
    parts = blocks(encoder)
    inside = {id(parameter): index for index, block in enumerate(parts, 1) for parameter in block.parameters()}
    found, outside = {}, 0
    for name, parameter in encoder.named_parameters():
        # transformers declares modules in forward order.
        if id(parameter) in inside:
            outside = len(parts) + 1
        found[name] = inside.get(id(parameter), outside)
    return found


@contextmanager
def drop_path(encoder: PreTrainedModel, rate: float, numbers: Tensor) -> Iterator[None]:
    """Stochastic depth (Huang and others, arXiv:1603.09382): during the block, an encoder in training mode drops residual branches.

    Each image drops its own branches; kept branches are divided by the probability of being kept. The drop probability rises linearly, from
    0 in the first block to `rate` in the last. The encoder's own drop path, if any, is disabled.

    numbers: random numbers in [0, 1), (images, 2 * blocks), one for each branch of each image.
    Raises `InputError` for encoders without blocks.
    """
    parts = blocks(encoder)
    rates = torch.linspace(0, rate, len(parts)).repeat_interleave(2).to(numbers.device, non_blocking=True)
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
    """A forward hook that multiplies each image's tokens by its factor; attention weights in the output are kept."""

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
