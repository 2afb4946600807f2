"""MoCo v3's initialisation of transformers (arXiv:2104.02057), which MAE takes over: Xavier weights and fixed positions."""

import torch
from torch import nn
from transformers import PreTrainedModel

from sslzoo.encoders import embedding_parts, token_grid

from .positions import sincos_positions


def xavier_linear(module: nn.Module) -> None:
    """Initialises the module if it is a linear layer: pass it to `apply`."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


@torch.no_grad()
def init_embeddings(encoder: PreTrainedModel, class_token_std: float) -> None:
    """Initialises what turns images into tokens. Positions become fixed sine-cosine ones; rotary ones stay."""
    parts, width = embedding_parts(encoder), encoder.config.hidden_size
    if parts.positions is not None:
        positions = sincos_positions(width, token_grid(encoder)[0])[:, parts.class_token is None :]
        parts.positions.requires_grad_(False).copy_(positions.view_as(parts.positions))
    # The patch projection is a convolution, but is initialised as the linear layer over flattened patches that it amounts to.
    nn.init.xavier_uniform_(parts.projection.weight.flatten(1))
    if parts.projection.bias is not None:
        nn.init.zeros_(parts.projection.bias)
    if parts.class_token is not None:
        nn.init.normal_(parts.class_token, std=class_token_std)
