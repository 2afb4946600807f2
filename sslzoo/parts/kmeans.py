"""k-means on the device."""

import torch
from torch import Tensor

BATCH = 8192  # rows whose distances to all centres are held at once


@torch.no_grad()
def kmeans(rows: Tensor, noise: Tensor, rounds: int = 100) -> Tensor:
    """The centres (k, d) of as many clusters of `rows` (n, d) as there are uniform numbers in `noise` (k,).

    Starts as k-means++ (Arthur and Vassilvitskii, 2007): a row becomes a centre with a probability that is proportional to its squared
    distance from the nearest one so far. A cluster that loses all its rows stays where it is. Ends when no row changes its cluster.
    """
    centers = [rows[(noise[0] * len(rows)).long()]]
    distances = torch.full_like(rows[:, 0], torch.inf)
    for number in noise[1:]:
        distances = torch.minimum(distances, (rows - centers[-1]).square().sum(dim=1))
        below = distances.cumsum(dim=0)
        # `right`: never a row at distance 0, which is a centre already.
        place = torch.searchsorted(below, number.to(below.dtype) * below[-1], right=True)
        centers.append(rows[place.clamp(max=len(rows) - 1)])
    centers = torch.stack(centers)
    before = None
    for _ in range(rounds):
        nearest = torch.cat([_nearest(part, centers) for part in rows.split(BATCH)])
        if before is not None and torch.equal(nearest, before):
            break
        centers, before = _means(rows, nearest, centers), nearest
    return centers


def _nearest(rows: Tensor, centers: Tensor) -> Tensor:
    return (centers.square().sum(dim=1) - 2 * rows @ centers.T).argmin(dim=1)


def _means(rows: Tensor, nearest: Tensor, centers: Tensor) -> Tensor:
    sums, counts = torch.zeros_like(centers), torch.zeros_like(centers[:, :1])
    for part, its in zip(rows.split(BATCH), nearest.split(BATCH), strict=True):
        # As a product, because adding by index is in no fixed order on a GPU.
        members = (torch.arange(len(centers), device=rows.device)[:, None] == its).to(rows.dtype)
        sums += members @ part
        counts += members.sum(dim=1, keepdim=True)
    return torch.where(counts > 0, sums / counts.clamp(min=1), centers)
