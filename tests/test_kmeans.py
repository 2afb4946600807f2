"""k-means against well-separated clusters and against Lloyd's algorithm in loops."""

import pytest
import torch

from sslzoo.parts import kmeans as part
from sslzoo.parts.kmeans import kmeans


def noise(clusters, seed=0):
    return torch.rand(clusters, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", range(5))
def test_finds_well_separated_clusters(seed):
    generator = torch.Generator().manual_seed(seed)
    true = 10 * torch.eye(6)
    rows = (true.repeat(30, 1) + 0.1 * torch.randn(180, 6, generator=generator))[torch.randperm(180, generator=generator)]
    centers = kmeans(rows, noise(6, seed))
    nearest = torch.cdist(true, centers)
    assert sorted(nearest.argmin(dim=1).tolist()) == list(range(6)) and nearest.min(dim=1).values.max() < 0.2


def test_converges_to_the_means_of_the_clusters(monkeypatch):
    monkeypatch.setattr(part, "BATCH", 7)
    rows = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    centers = kmeans(rows, noise(5))
    members = [[] for _ in centers]
    for row in rows:
        members[min(range(5), key=lambda k: float((row - centers[k]).square().sum()))].append(row)
    for center, its in zip(centers, members, strict=True):
        torch.testing.assert_close(center, torch.stack(its).mean(dim=0))


def test_is_a_function_of_the_noise():
    rows = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(kmeans(rows, noise(8)), kmeans(rows, noise(8)))
    assert not torch.equal(kmeans(rows, noise(8)), kmeans(rows, noise(8, seed=1)))


def test_initial_centers_differ():
    """A row that is a centre is never drawn again, nor is a copy of it."""
    rows = torch.tensor([[0.0], [1.0], [2.0], [3.0]]).repeat(20, 1)
    for seed in range(20):
        assert kmeans(rows, noise(4, seed), rounds=0).flatten().sort().values.tolist() == [0, 1, 2, 3]
    assert kmeans(rows, torch.zeros(4), rounds=0).flatten().tolist() == [0, 1, 2, 3], "nor where the number drawn is exactly 0"


def test_clusters_without_rows_keep_their_center():
    assert torch.equal(kmeans(torch.ones(10, 3), noise(4)), torch.ones(4, 3))
