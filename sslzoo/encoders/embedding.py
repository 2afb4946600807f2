"""What turns an image into tokens, under one name for every family of transformers."""

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel

from sslzoo.errors import InputError


class EmbeddingParts(NamedTuple):
    """A transformer's parameters before its first block; None for what a family has not."""

    projection: nn.Conv2d  # of a patch
    class_token: nn.Parameter | None  # (1, 1, width) or (width,)
    registers: nn.Parameter | None  # (1, registers, width), after the class token and without positions
    positions: nn.Parameter | None  # (1, tokens, width) or (tokens, width), learned, of the class token first

    @property
    def special(self) -> int:
        """How many tokens stand before the patches."""
        return (self.class_token is not None) + (0 if self.registers is None else self.registers.shape[1])


def embedding_parts(encoder: PreTrainedModel) -> EmbeddingParts:
    """The parts of a transformer without windows, such as a ViT."""
    embeddings = encoder.embeddings
    patches = first_of(embeddings, "patch_embeddings", "patch_embedding")
    positions = first_of(embeddings, "position_embeddings", "position_embedding")
    return EmbeddingParts(
        projection=getattr(patches, "projection", patches),
        class_token=first_of(embeddings, "cls_token", "class_embedding"),
        registers=first_of(embeddings, "register_tokens"),
        positions=positions.weight if isinstance(positions, nn.Embedding) else positions,
    )


def side_in_px(encoder: PreTrainedModel, key: str) -> int:
    """The side of the encoder's own images ("image_size") or patches ("patch_size"). Raises `InputError` if they are not square."""
    size = getattr(encoder.config, key)
    sides = set(size) if isinstance(size, list | tuple) else {size}
    if len(sides) > 1:
        raise InputError(f"this '{encoder.config.model_type}' has a {key} of {'x'.join(map(str, size))} px: squares are needed")
    return sides.pop()


def cached_on_cpu(encoder: PreTrainedModel) -> AbstractContextManager:
    """For a forward pass of BEiT or Data2Vec, which cache an index of relative positions for all their models in the process.

    Without it, a forward pass inside `torch.device("meta")` would leave an index without values to all later ones.
    """
    return torch.device("cpu") if hasattr(encoder.config, "use_relative_position_bias") else nullcontext()


def first_of(module: nn.Module, *names: str):
    """The attribute that has the first of these names and is not None; None where there is none."""
    return next((getattr(module, name) for name in names if getattr(module, name, None) is not None), None)
