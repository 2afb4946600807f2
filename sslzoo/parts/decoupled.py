"""SimCLR's positives and negatives, decoupled (arXiv:2110.06848, equation 6)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .chunks import in_chunks
from .gather import gather, rank
from .precision import full_precision


def decoupled(first: Tensor, second: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """For each of the 2n rows of both views the cosine with its positive, and the log-sum-exp of the logits of its negatives: each (2n,).

    The positive is the other view of the row's image; negatives are all views of all other images, on all devices. Logits are cosines
    divided by the temperature.

    first, second: (n, d), not necessarily normalised, row i of both from image i.
    """
    count = len(first)
    embeddings = F.normalize(torch.cat((first, second)).float(), dim=1)
    all_embeddings = gather(embeddings)
    positives = (embeddings[:count] * embeddings[count:]).sum(dim=1)
    rows = torch.arange(len(all_embeddings), device=embeddings.device)
    images = rows // (2 * count) * count + rows % count

    def negatives(embeddings: Tensor, own_images: Tensor) -> Tensor:
        with full_precision(embeddings.device):
            logits = embeddings @ all_embeddings.T / temperature
        return logits.masked_fill(images == own_images[:, None], float("-inf")).logsumexp(dim=1)

    own_images = images.narrow(0, rank() * 2 * count, 2 * count)
    return positives.repeat(2), in_chunks(negatives, (embeddings, own_images), len(all_embeddings))
