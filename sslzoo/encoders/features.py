"""An encoder's features: one vector per image, and one per place of it."""

import inspect
import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sslzoo.errors import InputError

from .embedding import cached_on_cpu, embedding_parts, first_of, side_in_px


def features(encoder: PreTrainedModel, pixels: Tensor) -> Tensor:
    """One vector per image, (n, width): what the encoder pools if it does, else the class token after the last norm.

    Without a class token, the mean of the tokens. A trained pooling layer (tanh of a dense layer) is not applied: few checkpoints have
    one, self-supervised ones never.

    pixels: (n, 3, height, width), normalised. An encoder with positions accepts other sizes than its own and interpolates them.
    """
    return _pooled(encoder, encoder_outputs(encoder, pixels))


def features_and_map(encoder: PreTrainedModel, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """`features`, and one vector for each place of the last feature map, (n, width, side, side), of square images."""
    out = encoder_outputs(encoder, pixels)
    last = out.last_hidden_state
    if last.ndim == 3:
        special = _special_tokens(encoder)
        side = math.isqrt(last.shape[1] - special)
        last = last[:, special:].mT.unflatten(2, (side, side))
    return _pooled(encoder, out), last


@torch.no_grad()
def feature_map(encoder: PreTrainedModel, pixels: Tensor) -> Tensor:
    """The features of each place, (n, h, w, width): a transformer's patch tokens, or a convolutional network's last feature map.

    Without class and register tokens, and after the encoder's last norm, also where the encoder itself applies it to what is pooled alone.

    encoder: in evaluation mode. pixels: (n, 3, height, width), normalised.
    Raises `InputError` for an encoder whose tokens do not match its patches.
    """
    places = encoder_outputs(encoder, pixels).last_hidden_state
    if places.ndim == 4:
        places = places.permute(0, 2, 3, 1)
    else:
        height, width = output_grid(encoder, pixels, places.shape[1])
        places = places[:, -height * width :].unflatten(1, (height, width))
    norm = _norm_of_pooled(encoder)
    return places if norm is None else norm(places)


def output_grid(encoder: PreTrainedModel, pixels: Tensor, count: int) -> tuple[int, int]:
    """Places along height and width of what the encoder makes of the pixels.

    Raises `InputError` if `count` tokens cannot be its patches and a few special tokens.
    """
    kind, (height, width) = encoder.config.model_type, pixels.shape[-2:]
    patch = getattr(encoder.config, "patch_size", None)
    if isinstance(patch, int) and not kind.startswith("swin"):
        height, width = height // patch, width // patch
        if count in range(height * width, height * width + 16):
            return height, width
    elif height == width and (kind.startswith("swin") or kind == "dinov3_convnext"):  # whose maps shrink from stage to stage
        places = count - _special_tokens(encoder)
        side = math.isqrt(places)
        if places == side * side:
            return side, side
    raise InputError(f"the {count} tokens of an encoder '{kind}' do not match its patches")


def pool_tokens(encoder: PreTrainedModel, tokens: Tensor) -> Tensor:
    """What `features` makes of the tokens after the last norm, (n, tokens, width), of which some may be left out."""
    head = _pooling_head(encoder)
    if head is not None and not hasattr(head, "dense"):
        return head(tokens)
    if embedding_parts(encoder).class_token is None:
        return tokens.mean(1)
    # Models such as BEiT are trained with the mean of the patches, even if AutoModel omits the pooling layer.
    return tokens[:, 1:].mean(1) if getattr(encoder.config, "use_mean_pooling", False) else tokens[:, 0]


def has_pooler(config: dict[str, Any]) -> bool:
    """Whether the encoder of a config.json gives `pooler_output` in transformers; `features` are the mean of the patches where not."""
    return "IJepaModel" not in (config.get("architectures") or ()) and config.get("vision_use_head") is not False


def freeze_pooling(encoder: PreTrainedModel) -> None:
    """For a loss of the tokens alone, which trains nothing that pools them: distributed training would wait for its gradients.

    BEiT's norm of the mean is frozen. SigLIP's attention pooling is left out, and the features are the mean of the patches from then on, so
    that what is evaluated and published has been trained.
    """
    if getattr(encoder.config, "vision_use_head", False):
        encoder.config.vision_use_head = encoder.use_head = False
        encoder.head = None
    head = _pooling_head(encoder)
    if head is not None:
        head.requires_grad_(False)


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


def encoder_outputs(encoder: PreTrainedModel, pixels: Tensor, **options: Any):
    """What the encoder's own forward pass gives for images of any size. options: its further arguments."""
    config = encoder.config
    if _interpolates_when_told(type(encoder)):
        own_size = config.image_size if isinstance(config.image_size, list | tuple) else [config.image_size] * 2
        options["interpolate_pos_encoding"] = list(pixels.shape[-2:]) != list(own_size)
    if config.model_type == "swin":
        _set_windows(encoder, pixels)
        options["always_partition"] = True
    with cached_on_cpu(encoder):
        return encoder(pixel_values=pixels, **options)


def _pooling_head(encoder: PreTrainedModel) -> nn.Module | None:
    return first_of(encoder, "head", "pooler")  # SigLIP's, BEiT's


def _norm_of_pooled(encoder: PreTrainedModel) -> nn.Module | None:
    """The last norm of a family that applies it to the pooled features and not to the places."""
    kind = encoder.config.model_type
    if kind in ("convnext", "convnextv2"):
        return encoder.layernorm
    return encoder.post_layernorm if kind == "clip_vision_model" else first_of(first_of(encoder, "pooler"), "layernorm")  # BEiT's


def _pooled(encoder: PreTrainedModel, out) -> Tensor:
    if getattr(out, "pooler_output", None) is not None and not hasattr(getattr(encoder, "pooler", None), "dense"):
        return out.pooler_output.flatten(1)
    last = out.last_hidden_state
    return last.mean((2, 3)) if last.ndim == 4 else pool_tokens(encoder, last)


def _interpolates_when_told(kind: type[PreTrainedModel]) -> bool:
    """Whether images of another size than its own need a word in the forward pass; others do it on their own, or have no size."""
    code = inspect.unwrap(kind.forward).__code__  # a signature takes the compiler 0.2 s to trace
    return "interpolate_pos_encoding" in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


def _set_windows(encoder: PreTrainedModel, pixels: Tensor) -> None:
    """Sets a Swin's windows for images of this size.

    transformers shrinks them for small images and leaves them so for larger ones, and its position biases do not fit shrunk windows. Here
    a map smaller than a window is padded to one, and a map of a single window is not shifted, as in transformers.
    """
    window, patch = encoder.config.window_size, side_in_px(encoder, "patch_size")
    side = min(-(-size // patch) for size in pixels.shape[-2:])
    for stage in encoder.encoder.layers:
        for index, block in enumerate(stage.blocks):
            block.window_size = window
            block.shift_size = window // 2 if index % 2 and side > window else 0
        side = (side + 1) // 2


def _special_tokens(encoder: PreTrainedModel) -> int:
    """How many tokens stand before those of the places."""
    if encoder.config.model_type == "dinov3_convnext":
        return 1  # the pooled map
    if not hasattr(encoder, "embeddings") or encoder.config.model_type.startswith("swin"):
        return 0
    return embedding_parts(encoder).special
