"""The normalised temperature-scaled cross entropy (SimCLR, arXiv:2002.05709, equation 1)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .chunks import in_chunks
from .gather import gather, rank
from .precision import full_precision


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Mean over the 2n rows of both views. The positive is the other view of the row's image, negatives are all other rows of all devices.

    first, second: (n, d), not necessarily normalised, row i of both from image i.
    """
    count = len(first)
    embeddings = F.normalize(torch.cat((first, second)).float(), dim=1)
    all_embeddings = gather(embeddings)
    rows = torch.arange(2 * count, device=embeddings.device)
    offset = rank() * 2 * count

    def cross_entropies(embeddings: Tensor, rows: Tensor) -> Tensor:
        with full_precision(embeddings.device):
            logits = embeddings @ all_embeddings.T / temperature
        same_row = torch.arange(len(all_embeddings), device=embeddings.device) == (rows + offset)[:, None]
        positives = (rows + count) % (2 * count) + offset
        return F.cross_entropy(logits.masked_fill(same_row, float("-inf")), positives, reduction="none")

    return in_chunks(cross_entropies, (embeddings, rows), len(all_embeddings)).mean()
