"""What a policy is shown of a cluster and what it says of it: the contract between searches and policies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from campaign.clustering import Tree
    from campaign.search.thresholds import Thresholds


@dataclass(frozen=True, slots=True)
class Ask:
    """Masks of one cluster to be put to annotators now: leaf indexes of the tree, in the order they were drawn."""

    cluster: int
    leaves: tuple[int, ...]


@dataclass(slots=True)
class Evidence:
    """All that a policy may know of a cluster: its size, its mean score, and the answers of its sample so far.

    `height` is the fused distance at which it was merged, 0 of a single mask, and `depth` the number of splits between
    the root and it. `parent` is the evidence on which the parent was split, None at a cluster where the search began.
    `memo` is for what a policy derives from these, and nothing else, and does not want to derive twice: a flat array
    of floats, or None.
    """

    cluster: int
    size: int
    mean_score: float
    height: float = 0.0
    depth: int = 0
    yes: int = 0
    no: int = 0
    unsure: int = 0
    parent: Evidence | None = None
    memo: np.ndarray | None = None

    @property
    def drawn(self) -> int:
        """Masks of the sample that were answered, one way or another."""
        return self.yes + self.no + self.unsure


class Outcome(NamedTuple):
    """A policy's decision of a cluster, see `Decision`."""

    kind: str
    rule: str
    quality: float | None = None
    lower_bound: float | None = None


class Policy(Protocol):
    """Says of a cluster how many more masks to ask about, or what to decide. Pure: no state, no randomness.

    `shared_draw`: one random order of all masks serves every cluster, so the answers of a parent's sample that lie in
    a child are the beginning of the child's own sample. Otherwise every cluster's sample is drawn afresh.
    """

    @property
    def name(self) -> str:
        """The name under which settings know the policy."""
        ...

    @property
    def shared_draw(self) -> bool:
        """Whether one random order of all masks serves every cluster."""
        ...

    def start(self, tree: Tree) -> list[int]:
        """The clusters to begin with, usually the root alone."""
        ...

    def priority(self, evidence: Evidence, thresholds: Thresholds) -> float:
        """Clusters with the greatest value are looked at first."""
        ...

    def draw_limit(self, size: int) -> int:
        """The most masks that may ever be drawn from a cluster of `size` masks."""
        ...

    def consider(self, evidence: Evidence, thresholds: Thresholds) -> Outcome | int:
        """A decision, or how many more masks, at least one, to ask about before the cluster is considered again."""
        ...
