"""Pictures of what an encoder sees: the principal components of a feature map as colours, and the class token's attention."""

import copy

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sslzoo.encoders import encoder_outputs, output_grid
from sslzoo.errors import InputError
from sslzoo.parts.precision import in_float64

_MIN_SPREAD = 1e-5  # relative to the first component; anything below is rounding


def pca_map(maps: Tensor) -> Tensor:
    """The first three principal components of all positions of all images as red, green and blue, float32 (n, h, w, 3) in 0..1.

    Each component is scaled to 0..1 over all images together; a component without variance is 0.5. The sign is fixed such that the
    feature with the largest weight is bright, so that colours depend neither on the order of the images nor on the machine.

    maps: (n, h, w, width). After the visualisations of DINOv2 (Oquab and others, arXiv:2304.07193), without removing the background.
    """
    rows = in_float64(maps).flatten(0, 2)
    rows = rows - rows.mean(dim=0)
    left, singular_values, components = torch.linalg.svd(rows, full_matrices=False)
    colours = torch.full((len(rows), 3), 0.5, dtype=torch.float32, device=rows.device)
    for index in range(min(3, len(singular_values))):
        if singular_values[index] > _MIN_SPREAD * singular_values[0]:
            component = components[index]
            values = left[:, index] * component[component.abs().argmax()].sign()
            colours[:, index] = ((values - values.min()) / (values.max() - values.min())).float()
    return colours.to(maps.device).unflatten(0, maps.shape[:3])


@torch.no_grad()
def class_attention(encoder: PreTrainedModel, pixels: Tensor) -> Tensor:
    """The class token's attention to each patch in the last layer, (n, heads, h, w).

    It sums to 1 minus the attention to class and register tokens. encoder: in evaluation mode; it is not changed.
    Raises `InputError` for an encoder without attention or class token.
    """
    name = encoder.config.model_type
    if not hasattr(encoder.config, "num_attention_heads"):
        raise InputError(f"an encoder '{name}' has no attention to show")
    # Only the eager implementation returns attention weights.
    eager = copy.deepcopy(encoder)
    eager.set_attn_implementation("eager")
    attentions = encoder_outputs(eager, pixels, output_attentions=True).attentions
    if not attentions:
        raise InputError(f"an encoder '{name}' does not return its attention")
    last = attentions[-1]
    height, width = output_grid(encoder, pixels, last.shape[-1])
    if last.shape[-1] == height * width:
        raise InputError(f"an encoder '{name}' has no class token whose attention could be shown")
    return last[:, :, 0, -height * width :].unflatten(2, (height, width))
