"""Gradient checkpointing (Chen and others, arXiv:1604.06174): blocks computed again in the backward pass, not kept in memory."""

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from sslzoo.errors import InputError


def checkpoint_blocks(network: nn.Module, kind: str, *, enable: bool = True) -> None:
    """Checkpoints every transformer block of `network` that is trained: the same gradients in less memory, for one more forward pass.

    kind: the encoder's model type, for messages. enable: False ends it. Raises `InputError` for an encoder whose blocks cannot be computed
    again: a ResNet's batch norms would count each batch twice, and a Swin's windows follow the images of its last forward pass.
    """
    blocks = [module for module in network.modules() if isinstance(module, GradientCheckpointingLayer)]
    if kind == "swin" or not blocks:
        raise InputError(f"gradient_checkpointing needs the blocks of a transformer such as a ViT or DINOv2: a '{kind}' has none that fit")
    for block in blocks:
        block.gradient_checkpointing = enable and any(parameter.requires_grad for parameter in block.parameters())
        # The encoders draw no random numbers, so there is no random state to keep.
        block._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
