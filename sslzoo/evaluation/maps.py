"""What an encoder sees where in an image: its features as colours, and what the class token attends to."""

import copy

import torch
from torch import Tensor
from transformers import PreTrainedModel, ViTModel

from sslzoo.errors import InputError
from sslzoo.parts.precision import in_float64

_FLAT = 1e-5  # of the first component's spread: what is below is rounding


@torch.no_grad()
def feature_map(encoder: PreTrainedModel, pixels: Tensor) -> Tensor:
    """One vector per place, (n, h, w, width): a ViT's patch tokens behind the last norm, or the last map of a convolutional net.

    encoder: in evaluation mode. pixels: (n, 3, height, width), normalised. Class and register tokens are left out.
    Raises `InputError` for an encoder whose tokens are not those of its patches.
    """
    last = _run(encoder, pixels).last_hidden_state
    if last.ndim == 4:
        return last.permute(0, 2, 3, 1)
    height, width = _grid(encoder, pixels, last.shape[1])
    return last[:, -height * width :].unflatten(1, (height, width))


def pca_map(maps: Tensor) -> Tensor:
    """The first three principal components over all places of all images as red, green and blue, float32 (n, h, w, 3) in 0..1.

    Each component is stretched to 0..1 over all the images together; one without spread is 0.5. Its sign is such that the feature that
    weighs most in it is bright, so that colours depend neither on the order of the images nor on the machine.

    maps: (n, h, w, width). After the pictures of DINOv2 (Oquab and others, 2304.07193), without their removal of the background.
    """
    rows = in_float64(maps).flatten(0, 2)
    rows = rows - rows.mean(dim=0)
    left, spread, components = torch.linalg.svd(rows, full_matrices=False)
    colours = torch.full((len(rows), 3), 0.5, dtype=torch.float32, device=rows.device)
    for index in range(min(3, len(spread))):
        if spread[index] > _FLAT * spread[0]:
            component = components[index]
            values = left[:, index] * component[component.abs().argmax()].sign()
            colours[:, index] = ((values - values.min()) / (values.max() - values.min())).float()
    return colours.to(maps.device).unflatten(0, maps.shape[:3])


@torch.no_grad()
def class_attention(encoder: PreTrainedModel, pixels: Tensor) -> Tensor:
    """How much the class token attends to each patch in the last layer, (n, heads, h, w).

    Over the patches it sums up to 1 less what class and register tokens get. encoder: in evaluation mode; it stays as it is.
    Raises `InputError` for an encoder without attention or class token.
    """
    name = encoder.config.model_type
    if not hasattr(encoder.config, "num_attention_heads"):
        raise InputError(f"an encoder '{name}' has no attention to show")
    # Only this implementation keeps the weights.
    eager = copy.deepcopy(encoder)
    eager.set_attn_implementation("eager")
    attentions = _run(eager, pixels, output_attentions=True).attentions
    if not attentions:
        raise InputError(f"an encoder '{name}' does not tell its attention")
    last = attentions[-1]
    height, width = _grid(encoder, pixels, last.shape[-1])
    if last.shape[-1] == height * width:
        raise InputError(f"an encoder '{name}' has no class token whose attention could be shown")
    return last[:, :, 0, -height * width :].unflatten(2, (height, width))


def _run(encoder: PreTrainedModel, pixels: Tensor, **wanted: bool):
    # Other models than this one interpolate their positions without being told.
    told = {"interpolate_pos_encoding": True} if isinstance(encoder, ViTModel) else {}
    return encoder(pixel_values=pixels, **told, **wanted)


def _grid(encoder: PreTrainedModel, pixels: Tensor, count: int) -> tuple[int, int]:
    """Patches along height and width, of which there are at most as many as the `count` tokens."""
    patch = getattr(encoder.config, "patch_size", None)
    if isinstance(patch, int):
        height, width = pixels.shape[-2] // patch, pixels.shape[-1] // patch
        if count in range(height * width, height * width + 16):
            return height, width
    raise InputError(f"the {count} tokens of an encoder '{encoder.config.model_type}' are not those of its patches")
