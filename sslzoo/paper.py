"""Where a method comes from, and what its authors report."""

from typing import NamedTuple


class Paper(NamedTuple):
    """The paper of a method."""

    title: str
    authors: str  # "First Author and others"
    year: int
    arxiv: str | None  # "2002.05709"; None for a paper that is not on arXiv
    doi: str | None = None  # of a paper that is not on arXiv

    @property
    def url(self) -> str:
        """The paper's address."""
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else f"https://doi.org/{self.doi}"


class Reported(NamedTuple):
    """A number that the authors report on ImageNet-1k, by their own protocol. value: a fraction. None: they do not say."""

    metric: str  # as in recipes, "linear_top1"
    value: float
    encoder: str
    epochs: int | None
    batch_size: int | None
    source: str  # a repository on GitHub, or "the paper"
