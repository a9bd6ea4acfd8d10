"""Algorithm 1 of "Scaling up instance annotation via label propagation", its orders of search, and its curtailment."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from campaign.records.decision import Kind
from campaign.search.evidence import Evidence, Outcome
from ml_backend.errors import InputError

if TYPE_CHECKING:
    from campaign.clustering import Tree
    from campaign.search.thresholds import Thresholds

SAMPLE_SIZE = 15
ACCEPT_QUALITY = 0.85
REPLACEMENTS = 2  # at most this many times the sample size is drawn when annotators are unsure
RULES = {Kind.ACCEPT: "Q >= K_a", Kind.REJECT: "Q <= 1 - K_a", Kind.SPLIT: "1 - K_a < Q < K_a"}
_SLACK = 1e-9  # 17 of 20 is 0.85, also in floating point


@lru_cache(maxsize=65536)
def lower_bound(yes: int, answered: int, size: int, confidence: float = 0.95) -> float:
    """One-sided Clopper-Pearson lower bound on a cluster's quality, and no less than what was seen with certainty.

    `yes` of `answered` uniformly drawn masks of a cluster of `size` masks were voted yes.
    """
    if answered == 0 or yes == 0:
        return 0.0
    if answered >= size:
        return yes / answered
    from scipy.special import betaincinv

    return max(float(betaincinv(yes, answered - yes + 1, 1 - confidence)), yes / size)


Order = Callable[[Evidence], float]
ORDERS: dict[str, Order | None] = {
    "score": None,  # the published heuristic: the greatest mean score first
    "bfs": lambda evidence: -evidence.depth,
    "dfs": lambda evidence: evidence.depth,
    "dfs-score": lambda evidence: evidence.depth + evidence.mean_score / 2,  # of two children the better one first
}


def oracle_order(values: Sequence[float] | np.ndarray) -> Order:
    """The order by a value of each cluster that only a simulation knows: the true mean IoU."""
    return lambda evidence: float(values[evidence.cluster])


@dataclass(frozen=True)
class Paper:
    """Algorithm 1 to the letter, by default in its own order, the greatest mean score first.

    S ≤ K_pr: reject. S ≤ K_pa: split. Otherwise `n_s` masks are drawn uniformly without replacement (all, of a
    smaller cluster) and asked about; Q̃ ≥ K_a: accept, Q̃ ≤ 1 − K_a: reject, otherwise split. An unsure answer counts
    neither way and another mask is drawn in its place, up to twice `n_s` masks; a cluster without a single yes or no
    is split.
    """

    n_s: int = SAMPLE_SIZE
    k_a: float = ACCEPT_QUALITY
    order: Order | None = field(default=None, compare=False)
    name: str = "paper"
    shared_draw: bool = False

    def __post_init__(self) -> None:
        if self.n_s < 1:
            raise InputError("n_s", "a whole number of at least 1", self.n_s)
        if not 0.5 < self.k_a <= 1:
            raise InputError("k_a", "a quality above 0.5 and up to 1", self.k_a)

    def start(self, tree: Tree) -> list[int]:
        """The root alone."""
        return [int(tree.root)]

    def priority(self, evidence: Evidence, thresholds: Thresholds) -> float:
        """The mean score, or what another order goes by."""
        return evidence.mean_score if self.order is None else self.order(evidence)

    def draw_limit(self, size: int) -> int:
        """The sample size, and as many again in place of masks that annotators are unsure of."""
        return min(size, REPLACEMENTS * self.n_s)

    def consider(self, evidence: Evidence, thresholds: Thresholds) -> Outcome | int:
        """A whole sample at once, unless the mean score settles it; then the decision on it."""
        if evidence.drawn == 0:
            if evidence.mean_score <= thresholds.k_pr:
                return Outcome(Kind.REJECT, "S <= K_pr")
            if evidence.mean_score <= thresholds.k_pa:
                return Outcome(Kind.SPLIT, "S <= K_pa")
        answered = evidence.yes + evidence.no
        more = min(self.n_s - answered, self.draw_limit(evidence.size) - evidence.drawn)
        return more if more > 0 else self.judge(evidence.yes, answered, evidence.size)

    def judge(self, yes: int, answered: int, size: int) -> Outcome:
        """The decision on a complete sample."""
        if answered == 0:
            return Outcome(Kind.SPLIT, "no certain answer", None, 0.0)
        quality, bound = yes / answered, lower_bound(yes, answered, size)
        kind = Kind.SPLIT
        if yes >= self.k_a * answered - _SLACK:
            kind = Kind.ACCEPT
        elif yes <= (1 - self.k_a) * answered + _SLACK:
            kind = Kind.REJECT
        return Outcome(kind, RULES[kind], quality, bound)


def smallest_accepted(n: int, k_a: float) -> int:
    """The fewest yes of `n` answers with which a cluster is accepted."""
    return math.ceil(k_a * n - _SLACK)


@dataclass(frozen=True)
class Curtailed(Paper):
    """The decisions of `Paper` on the same samples, asked in parts and taken as soon as no answer can change them.

    Each part is the fewest masks whose answers could settle the outcome, so none is asked about for nothing.
    """

    name: str = "curtailed"

    def consider(self, evidence: Evidence, thresholds: Thresholds) -> Outcome | int:
        """The fewest masks that could settle the outcome, or the outcome as soon as it is settled."""
        outcome = super().consider(evidence, thresholds)
        if isinstance(outcome, Outcome):
            return outcome
        limit = self.draw_limit(evidence.size)
        settled, more = _settle(self.n_s, self.k_a, limit, evidence.yes, evidence.no, evidence.unsure)
        if settled is None:
            return more
        answered = evidence.yes + evidence.no
        bound = lower_bound(evidence.yes, answered, evidence.size)
        quality = evidence.yes / answered if answered else None
        return Outcome(settled, f"{RULES[settled]}, settled early", quality, bound)


@lru_cache(maxsize=65536)
def _settle(n_s: int, k_a: float, limit: int, yes: int, no: int, unsure: int) -> tuple[Kind | None, int]:
    """The outcome that every way to complete the sample leads to, or the fewest answers that could settle one."""
    paper = Paper(n_s, k_a)
    answered, left = yes + no, limit - yes - no - unsure
    missing = n_s - answered
    kinds = set()
    for certain in range(min(missing, left) + 1):
        # fewer certain answers than are missing come about only when all that may be drawn is drawn
        for also_yes in range(certain + 1):
            kinds.add(Kind(paper.judge(yes + also_yes, answered + certain, limit).kind))
        if len(kinds) > 1:
            break
    if len(kinds) == 1:
        return kinds.pop(), 0
    if left <= 1:
        return None, 1
    steps = (_settle(n_s, k_a, limit, yes + 1, no, unsure), _settle(n_s, k_a, limit, yes, no + 1, unsure))
    return None, min(1 + more for _, more in steps)


@dataclass(frozen=True)
class Cut(Paper):
    """Universal threshold: starts with the clusters into which the tree falls when it is cut at `height`."""

    name: str = "cut"
    height: float = 0.0

    def start(self, tree: Tree) -> list[int]:
        """The clusters at or below the height whose parents are above it."""
        height, parent = np.asarray(tree.height), np.asarray(tree.parent)
        above = np.where(parent >= 0, height[parent], np.inf)
        return np.flatnonzero((height <= self.height) & (above > self.height)).tolist()
