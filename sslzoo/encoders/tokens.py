"""A transformer's tokens, of which some are left out (MAE, MSN) or replaced (SimMIM)."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sslzoo.errors import InputError

from .embedding import cached_on_cpu, embedding_parts, first_of, side_in_px
from .names import check_image_size

# Transformers whose tokens keep their place from the first block to the last.
_WITHOUT_BIAS = ("vit", "vit_msn", "ijepa", "dinov2", "dinov2_with_registers", "dinov3_vit", "clip_vision_model", "siglip_vision_model")
_WITH_BIAS = ("beit", "data2vec-vision")  # in each attention, by relative position
_WITH_MASK = ("clip_vision_model", "siglip_vision_model")


def token_grid(encoder: PreTrainedModel, *, drops: bool = False) -> tuple[int, int]:
    """Patches per side, and px per side of a patch, of a transformer at its own image size.

    drops: whether some of its tokens are to be left out. Raises `InputError` for encoders whose tokens cannot be masked in this way.
    """
    kind = encoder.config.model_type
    if kind not in (*_WITHOUT_BIAS, *_WITH_BIAS):
        raise InputError(f"this method masks tokens and needs a ViT encoder, not '{kind}'")
    if drops and kind in _WITH_BIAS:
        raise InputError(f"this method leaves tokens out, and '{kind}' adds a bias to each pair of all positions: take a ViT encoder")
    patch, size = side_in_px(encoder, "patch_size"), side_in_px(encoder, "image_size")
    check_image_size(f"a '{kind}'", patch, size)
    return size // patch, patch


def tokens(
    encoder: PreTrainedModel, pixels: Tensor, *, keep: Tensor | None = None, mask: Tensor | None = None, mask_token: Tensor | None = None
) -> Tensor:
    """All tokens after the last norm: (n, special + kept patches, width), the class token, if any, and registers first.

    Without dropout. CLIP's last norm, which the family applies to the class token alone, is applied to all.

    keep: int64 (n, k), the patches that the encoder processes (MAE, MSN), with their own positions. None: all.
    mask: bool (n, patches), the patches that are replaced by `mask_token` (width,) before positions are added (SimMIM).
    """
    parts = embedding_parts(encoder)
    hidden = parts.projection(pixels).flatten(2).mT
    if mask is not None:
        hidden = torch.where(mask[..., None], mask_token.to(hidden.dtype), hidden)
    if parts.class_token is not None:
        hidden = torch.cat((parts.class_token.expand(len(hidden), 1, -1).to(hidden.dtype), hidden), dim=1)
    if parts.positions is not None:
        hidden = hidden + encoder.embeddings.interpolate_pos_encoding(hidden, *pixels.shape[-2:])
    if parts.registers is not None:
        hidden = torch.cat((hidden[:, :1], parts.registers.expand(len(hidden), -1, -1).to(hidden.dtype), hidden[:, 1:]), dim=1)
    if keep is not None:
        kept = hidden[:, parts.special :].gather(1, keep[..., None].expand(-1, -1, hidden.shape[-1]))
        hidden = torch.cat((hidden[:, : parts.special], kept), dim=1)
    if hasattr(encoder, "pre_layrnorm"):  # CLIP's
        hidden = encoder.pre_layrnorm(hidden)
    with cached_on_cpu(encoder):
        options = _block_options(encoder, pixels, keep)
        for block in _blocks(encoder):
            hidden = block(hidden, **options)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
    return first_of(encoder, "layernorm", "norm", "post_layernorm")(hidden)


def _blocks(encoder: PreTrainedModel) -> nn.ModuleList:
    """As `blocks` finds them, without a search, for each forward pass."""
    body = first_of(encoder, "encoder", "model") or encoder
    return first_of(body, "layers", "layer")


def _block_options(encoder: PreTrainedModel, pixels: Tensor, keep: Tensor | None) -> dict[str, Any]:
    """What each block is given next to the tokens."""
    kind, size = encoder.config.model_type, pixels.shape[-2:]
    if kind == "dinov3_vit":
        rotations = encoder.rope_embeddings(pixels)  # cosines and sines, (patches, width of a head)
        return {"position_embeddings": rotations if keep is None else tuple(angles[keep][:, None] for angles in rotations)}
    if kind not in _WITH_BIAS:  # a mask only where it is required: DINOv2's blocks of transformers 5.17 take none
        return {"attention_mask": None} if kind in _WITH_MASK else {}
    bias = first_of(encoder, "shared_position_bias") or first_of(first_of(encoder, "encoder") or encoder, "relative_position_bias")
    shared = bias and bias(tuple(length // side_in_px(encoder, "patch_size") for length in size))
    return {"attention_mask" if kind == "beit" else "relative_position_bias": shared, "resolution": size}
