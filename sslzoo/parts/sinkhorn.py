"""Assignments of images to prototypes that use every prototype equally (Sinkhorn and Knopp; SwAV, arXiv:2006.09882)."""

from collections.abc import Callable

import torch
from torch import Tensor

from .chunks import split_rows
from .gather import gather

_NOTHING = -1e30  # in the place of the logarithm of 0, without its infinities


@torch.no_grad()
def sinkhorn(logits: Tensor, temperature: float, iterations: int) -> Tensor:
    """Each row's assignment to the prototypes, float32 (n, prototypes) with rows that sum to 1, without gradient.

    logits: (n, prototypes), this process's rows. exp(logits / temperature) is divided `iterations` times by each prototype's sum over
    the rows of all devices, and then by each row's sum.
    """
    # In logarithms: exp(1 / 0.05) overflows float16, and a prototype far from all rows would give 0 / 0.
    log_probs = logits.float() / temperature
    for _ in range(iterations):
        log_probs = log_probs - gather(log_probs.logsumexp(dim=0, keepdim=True)).logsumexp(dim=0, keepdim=True)
        log_probs = log_probs - log_probs.logsumexp(dim=1, keepdim=True)
    return log_probs.exp()


@torch.no_grad()
def sinkhorn_center(
    predict: Callable[[Tensor], Tensor], rows: Tensor, valid: Tensor, prototypes: int, temperature: float, iterations: int
) -> Tensor:
    """What is to be subtracted from logits to make `((logits - center) / temperature).softmax()` their assignments by `sinkhorn`.

    It stands where a running mean of the logits does, and never needs all logits at once. float32 (1, prototypes), without gradient.

    predict: the float32 logits (n, prototypes) of rows (n, d). valid: bool (n,), the rows that share the prototypes; others are padding.
    """
    center = torch.zeros(1, prototypes, device=rows.device)
    for iteration in range(iterations):
        sums = []
        for part, counted in split_rows((rows, valid), prototypes):
            log_probs = predict(part) / temperature
            if iteration:
                log_probs = log_probs - (log_probs - center).logsumexp(dim=1, keepdim=True)
            sums.append(log_probs.masked_fill(~counted[:, None], _NOTHING).logsumexp(dim=0, keepdim=True))
        center = gather(torch.cat(sums)).logsumexp(dim=0, keepdim=True)
    return center * temperature
