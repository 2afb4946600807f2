"""Masked prediction (iBOT, arXiv:2111.07832): to which prototypes a teacher assigns the patches that the student does not see."""

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sslzoo.encoders import pool_tokens, token_grid, tokens
from sslzoo.errors import InputError

from .chunks import in_chunks


def check_mask_ratios(smallest: float, largest: float) -> None:
    """Raises `ValueError` unless smallest_mask_ratio and largest_mask_ratio can be a view's least and greatest share of masked patches."""
    if not smallest <= largest < 1:
        raise ValueError(f"largest_mask_ratio is {largest}: must be less than 1 and not below smallest_mask_ratio, {smallest}")


def patches_per_side(view: Tensor, patch: int) -> int:
    """How many patches of `patch` px a global view (n, channels, size, size) has along its side. Raises `InputError`."""
    if view.shape[-1] % patch:
        raise InputError(f"a global view has {view.shape[-1]} px: must be a multiple of the encoder's patches of {patch} px")
    return view.shape[-1] // patch


def image_and_patches(
    backbone: PreTrainedModel, pixels: Tensor, mask: Tensor | None = None, mask_token: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """What the encoder pools, (n, width), and its patches, (n, patches, width). mask: bool (n, patches), which it does not see."""
    hidden = tokens(backbone, pixels, mask=mask, mask_token=mask_token)
    patches = (pixels.shape[-1] // token_grid(backbone)[1]) ** 2
    return pool_tokens(backbone, hidden), hidden[:, -patches:]


def masked_cross_entropy(
    targets: Tensor, embeddings: Tensor, valid: Tensor, assign: Callable[[Tensor], Tensor], predict: Callable[[Tensor], Tensor],
    prototypes: int,
) -> Tensor:  # fmt: skip
    """The mean over the images of the mean cross entropy over their masked patches, which is 0 for an image without any.

    targets, embeddings: (n, most, d), of the patches. valid: bool (n, most), which of them are masked. assign: the probabilities
    (n, most, prototypes) of targets. predict: the float32 logits of embeddings, divided by the temperature.
    """

    def cross_entropies(targets: Tensor, embeddings: Tensor, valid: Tensor) -> Tensor:
        with torch.no_grad():
            probs = assign(targets)
        losses = -(probs * predict(embeddings).log_softmax(dim=-1)).sum(dim=-1)
        return (losses * valid).sum(dim=1) / valid.sum(dim=1).clamp(min=1)

    return in_chunks(cross_entropies, (targets, embeddings, valid), targets.shape[1] * prototypes).mean()
