"""k-means on the device."""

import torch
from torch import Tensor

BATCH = 8192  # rows whose distances to all centres are held at once


@torch.no_grad()
def kmeans(rows: Tensor, noise: Tensor, rounds: int = 100) -> Tensor:
    """The centres (k, d) of as many clusters of `rows` (n, d) as there are uniform numbers in `noise` (k,).

    Starts as k-means++ (Arthur and Vassilvitskii, 2007): a row becomes a centre with a probability proportional to its squared distance
    from the nearest centre so far. A cluster without rows keeps its centre. Ends when no row changes its cluster.
    """
    centers = [rows[(noise[0] * len(rows)).long()]]
    distances = torch.full_like(rows[:, 0], torch.inf)
    for number in noise[1:]:
        distances = torch.minimum(distances, (rows - centers[-1]).square().sum(dim=1))
        cumulative = distances.cumsum(dim=0)
        # `right`: never a row at distance 0, which is a centre already.
        index = torch.searchsorted(cumulative, number.to(cumulative.dtype) * cumulative[-1], right=True)
        centers.append(rows[index.clamp(max=len(rows) - 1)])
    centers = torch.stack(centers)
    previous = None
    for _ in range(rounds):
        assignments = torch.cat([_nearest_center(part, centers) for part in rows.split(BATCH)])
        if previous is not None and torch.equal(assignments, previous):
            break
        centers, previous = _cluster_means(rows, assignments, centers), assignments
    return centers


def _nearest_center(rows: Tensor, centers: Tensor) -> Tensor:
    return (centers.square().sum(dim=1) - 2 * rows @ centers.T).argmin(dim=1)


def _cluster_means(rows: Tensor, assignments: Tensor, centers: Tensor) -> Tensor:
    sums, counts = torch.zeros_like(centers), torch.zeros_like(centers[:, :1])
    for part, clusters in zip(rows.split(BATCH), assignments.split(BATCH), strict=True):
        # As a matrix product, because scatter_add on a GPU adds in no fixed order.
        members = (torch.arange(len(centers), device=rows.device)[:, None] == clusters).to(rows.dtype)
        sums += members @ part
        counts += members.sum(dim=1, keepdim=True)
    return torch.where(counts > 0, sums / counts.clamp(min=1), centers)
