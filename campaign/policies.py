"""Policies: when to ask about a cluster's masks, how many of them, and when to decide.

`paper` is Algorithm 1 of "Scaling up instance annotation via label propagation" (Papadopoulos, Weber, Torralba).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from campaign.search import Evidence, Kind, Outcome
from ml_backend.errors import InputError

if TYPE_CHECKING:
    from campaign.clustering import Tree
    from campaign.search import Policy
    from campaign.thresholds import Thresholds

SAMPLE_SIZE = 15
ACCEPT_QUALITY = 0.85
REPLACEMENTS = 2  # at most this many times the sample size is drawn when annotators are unsure
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
    order: Callable[[Evidence], float] | None = field(default=None, compare=False)
    name: str = "paper"
    shared_draw: bool = False

    def __post_init__(self) -> None:
        if self.n_s < 1:
            raise InputError("n_s", "a whole number of at least 1", self.n_s)
        if not 0.5 < self.k_a <= 1:
            raise InputError("k_a", "a quality above 0.5 and up to 1", self.k_a)

    def start(self, tree: Tree) -> list[int]:
        return [int(tree.root)]

    def priority(self, evidence: Evidence) -> float:
        return evidence.mean_score if self.order is None else self.order(evidence)

    def draw_limit(self, size: int) -> int:
        return min(size, REPLACEMENTS * self.n_s)

    def consider(self, evidence: Evidence, thresholds: Thresholds) -> Outcome | int:
        if evidence.drawn == 0:
            if evidence.mean_score <= thresholds.k_pr:
                return Outcome("reject", "S <= K_pr")
            if evidence.mean_score <= thresholds.k_pa:
                return Outcome("split", "S <= K_pa")
        answered = evidence.yes + evidence.no
        more = min(self.n_s - answered, self.draw_limit(evidence.size) - evidence.drawn)
        return more if more > 0 else self.judge(evidence.yes, answered, evidence.size)

    def judge(self, yes: int, answered: int, size: int) -> Outcome:
        """The decision on a complete sample."""
        if answered == 0:
            return Outcome("split", "no certain answer", None, 0.0)
        quality, bound = yes / answered, lower_bound(yes, answered, size)
        kind: Kind = "split"
        if yes >= self.k_a * answered - _SLACK:
            kind = "accept"
        elif yes <= (1 - self.k_a) * answered + _SLACK:
            kind = "reject"
        return Outcome(kind, _RULES[kind], quality, bound)


_RULES = {"accept": "Q >= K_a", "reject": "Q <= 1 - K_a", "split": "1 - K_a < Q < K_a"}


def smallest_accepted(n: int, k_a: float) -> int:
    """The fewest yes of `n` answers with which a cluster is accepted."""
    return math.ceil(k_a * n - _SLACK)


def make_policy(name: str, n_s: int = SAMPLE_SIZE, k_a: float = ACCEPT_QUALITY) -> Policy:
    """The policy of a name. Raises InputError for an unknown one."""
    if name not in POLICIES:
        raise InputError("policy", "one of " + ", ".join(POLICIES), name)
    return POLICIES[name](n_s=n_s, k_a=k_a)


POLICIES: dict[str, Callable[..., Policy]] = {"paper": Paper}
