"""An encoder's features: one vector per image, or one per token."""

import functools
import inspect

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, ViTModel

from sslzoo.errors import InputError


def features(encoder: PreTrainedModel, pixels: Tensor) -> Tensor:
    """One vector per image, (n, width): the pooled map if the encoder pools, else the class token after the last norm.

    Without a class token, the mean of the tokens. A trained pooling layer (tanh of a dense layer) is not applied: few checkpoints have
    one, self-supervised ones never.

    pixels: (n, 3, height, width), normalised. An encoder with positions accepts other sizes than its own and interpolates them.
    """
    if _interpolates_when_told(type(encoder)):
        own_size = encoder.config.image_size if isinstance(encoder.config.image_size, list | tuple) else [encoder.config.image_size] * 2
        out = encoder(pixel_values=pixels, interpolate_pos_encoding=list(pixels.shape[-2:]) != list(own_size))
    else:
        out = encoder(pixel_values=pixels)
    if getattr(out, "pooler_output", None) is not None and not hasattr(getattr(encoder, "pooler", None), "dense"):
        return out.pooler_output.flatten(1)
    last = out.last_hidden_state
    if last.ndim == 4:
        return last.mean((2, 3))
    if not any(name.endswith("cls_token") for name, _ in encoder.named_parameters()):
        return last.mean(1)
    # Models such as BEiT are trained with the mean of the patches, even if AutoModel omits the pooling layer.
    return last[:, 1:].mean(1) if getattr(encoder.config, "use_mean_pooling", False) else last[:, 0]


@functools.cache
def _interpolates_when_told(kind: type[PreTrainedModel]) -> bool:
    """Whether images of another size than its own need a word in the forward pass; others do it on their own, or have no size."""
    return "interpolate_pos_encoding" in inspect.signature(kind.forward).parameters


def feature_width(encoder: PreTrainedModel) -> int:
    """The width of `features`. Raises `InputError` for an encoder whose configuration does not tell."""
    config = encoder.config
    for name in ("neck_hidden_sizes", "hidden_sizes", "hidden_size"):
        width = getattr(config, name, None)
        if isinstance(width, (list, tuple)) and width:
            width = width[-1]
        if isinstance(width, int):
            return width
    raise InputError(f"cannot tell how wide the features of a '{config.model_type}' are: take another encoder")


def token_grid(encoder: PreTrainedModel) -> tuple[int, int]:
    """Patches per side, and px per side of a patch, of a ViT at its own image size. Raises `InputError` for encoders without tokens."""
    if not isinstance(encoder, ViTModel):
        raise InputError(f"this method masks tokens and needs a ViT encoder, not '{encoder.config.model_type}'")
    return encoder.config.image_size // encoder.config.patch_size, encoder.config.patch_size


def tokens(
    encoder: ViTModel, pixels: Tensor, *, keep: Tensor | None = None, mask: Tensor | None = None, mask_token: Tensor | None = None
) -> Tensor:
    """All tokens after the last norm, the class token first: (n, 1 + kept patches, width).

    keep: int64 (n, k), the patches that the encoder processes (MAE, MSN). None: all.
    mask: bool (n, patches), the patches that are replaced by `mask_token` (width,) before positions are added (SimMIM).
    """
    embeddings = encoder.embeddings
    own = pixels.shape[-1] == encoder.config.image_size and pixels.shape[-2] == encoder.config.image_size
    patches = embeddings.patch_embeddings(pixels)
    if mask is not None:
        patches = torch.where(mask[..., None], mask_token.to(patches.dtype), patches)
    hidden = torch.cat((embeddings.cls_token.expand(len(patches), -1, -1).to(patches.dtype), patches), dim=1)
    positions = embeddings.position_embeddings
    hidden = hidden + (positions if own else embeddings.interpolate_pos_encoding(hidden, *pixels.shape[-2:]))
    if keep is not None:
        kept = hidden[:, 1:].gather(1, keep[..., None].expand(-1, -1, hidden.shape[-1]))
        hidden = torch.cat((hidden[:, :1], kept), dim=1)
    for layer in encoder.layers:
        hidden = layer(hidden)
    return encoder.layernorm(hidden)


def compiled_parts(encoder: PreTrainedModel) -> list[nn.Module]:
    """The modules to compile: a ViT's blocks, as masked methods call them one by one; otherwise the encoder."""
    return list(encoder.layers) if isinstance(encoder, ViTModel) else [encoder]
