"""Swapped prediction: a view predicts the assignments of the other views (SwAV, arXiv:2006.09882; DINO, arXiv:2104.14294)."""

from collections.abc import Callable

from torch import Tensor

from .chunks import in_chunks


def swapped_cross_entropy(target_probs: Tensor, embeddings: Tensor, predict: Callable[[Tensor], Tensor]) -> Tensor:
    """The mean cross entropy over the images and over all pairs of a target and the prediction from another view.

    target_probs: (n, global views, prototypes), without gradient. embeddings: (n, views, d), the global views first.
    predict: the float32 logits (n, views, prototypes) of embeddings, divided by the temperature.
    """
    global_views, prototypes = target_probs.shape[1:]
    views = embeddings.shape[1]

    def cross_entropies(target_probs: Tensor, embeddings: Tensor) -> Tensor:
        log_probs = predict(embeddings).log_softmax(dim=2)
        # Over all pairs: the product of the sums, minus the pairs of a view with itself.
        all_pairs = (target_probs.sum(dim=1) * log_probs.sum(dim=1)).sum(dim=1)
        return (target_probs * log_probs[:, :global_views]).sum(dim=(1, 2)) - all_pairs

    losses = in_chunks(cross_entropies, (target_probs, embeddings), views * prototypes)
    return losses.mean() / (global_views * (views - 1))
