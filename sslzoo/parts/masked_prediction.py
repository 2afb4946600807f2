"""Masked prediction (iBOT, arXiv:2111.07832): to which prototypes a teacher assigns the patches that the student does not see."""

from collections.abc import Callable

import torch
from torch import Tensor

from sslzoo.errors import InputError

from .chunks import in_chunks


def patches_per_side(view: Tensor, patch: int) -> int:
    """How many patches of `patch` px a global view (n, channels, size, size) has along its side. Raises `InputError`."""
    if view.shape[-1] % patch:
        raise InputError(f"a global view has {view.shape[-1]} px: must be a multiple of the encoder's patches of {patch} px")
    return view.shape[-1] // patch


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
