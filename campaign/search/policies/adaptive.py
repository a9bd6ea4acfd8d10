"""The default policy: asks as long as an answer is worth its price, and counts every answer it already has."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from campaign.search.evidence import Evidence, Outcome
from campaign.search.policies.paper import ACCEPT_QUALITY, SAMPLE_SIZE, smallest_accepted
from campaign.search.policies.prior import QUALITIES, Prior
from ml_backend.errors import InputError

if TYPE_CHECKING:
    from campaign.clustering import Tree
    from campaign.search.thresholds import Thresholds

_BATCHES = (1, 2, 3, 5, 8)
_VERIFIED_AT_ONCE = 2  # masks of a small cluster, before it is asked again whether the rest is worth it
_MOST = 8  # times the sample size: the most masks drawn from a cluster
_RETRIES = 0.33  # of Algorithm 1 for each halving of a cluster on its way down a tree, see `_Tables.level`
_TRIES = 3.5  # of it, at most
_STRICT = 3.5  # a mask wrongly let in weighs as much as so many wrongly left out
_STAKE = 6.0  # and a misjudged mask as much as so many single ones verified
_HIGHEST = 0.98  # level, however badly annotators err
_BELOW = 0.13  # the level may be below what is asked for, however small the samples
_DEFAULT_PRIOR = Prior()


@dataclass(frozen=True)
class AnnotatorQuality:
    """How answers relate to the truth: the shares of correct masks voted yes and of wrong ones voted no."""

    sensitivity: float = 1.0
    specificity: float = 1.0

    def __post_init__(self) -> None:
        for name in ("sensitivity", "specificity"):
            value = getattr(self, name)
            if not 0.5 < value <= 1:
                raise InputError(name, "a share above 0.5 and up to 1", value)


@dataclass(frozen=True)
class Adaptive:
    """Bayesian sequential verification of a tree.

    Every cluster carries a density of its quality Q: a prior from held-out masks (`Thresholds.prior`), what the
    answers around it say of its parent, and the answers inside it, corrected for the annotators' sensitivity and
    specificity. All clusters draw from one random order of the masks, so the answers of a parent's sample that lie in a
    child are a uniform sample of the child.

    Accepted is a cluster where that is the lesser regret: falling short of the level weighs `_STRICT` times as much as
    splitting a cluster above it, so an uncertain cluster needs better answers than a certain one. The level is the
    quality at which Algorithm 1 (`n_s` answers of the same annotators against `k_a`) accepts as often as not, and the
    lower the larger the cluster, for a large one is tried again in each of its parts. Others are split, or rejected
    when next to nothing can be gained inside. Before deciding, more masks are asked about as long as it is expected to
    put right decisions worth the price: some answers more for thousands of masks at stake, none for ten. A cluster of m
    masks is not accepted on fewer than 1 + log2 m answers, or `n_s` if that is less. Clusters of up to `n_s` masks that
    are not good enough as a whole are verified mask by mask, as long as a question is expected to bring `price` masks
    or more.
    """

    n_s: int = SAMPLE_SIZE
    k_a: float = ACCEPT_QUALITY
    price: float = 0.42
    annotators: AnnotatorQuality = AnnotatorQuality()
    name: str = "adaptive"
    shared_draw: bool = True

    def __post_init__(self) -> None:
        if self.n_s < 1:
            raise InputError("n_s", "a whole number of at least 1", self.n_s)
        if not 0.5 < self.k_a <= 1:
            raise InputError("k_a", "a quality above 0.5 and up to 1", self.k_a)
        if not 0 < self.price <= 100:
            raise InputError("price", "masks per question, above 0", self.price)

    def start(self, tree: Tree) -> list[int]:
        return [int(tree.root)]

    def draw_limit(self, size: int) -> int:
        return min(size, max(_MOST * self.n_s, 2 * self.least_answers(size)))

    def least_answers(self, size: int) -> int:
        """Answers without which no cluster of `size` masks is accepted."""
        return min(size, self.n_s, 1 + math.ceil(math.log2(size)))

    def priority(self, evidence: Evidence, thresholds: Thresholds) -> float:
        """Masks that the next questions are expected to bring, per question."""
        tables, density = self._tables(evidence.size), self.density(evidence, thresholds)
        rest, expected = evidence.size - evidence.drawn, float(density @ QUALITIES)
        if tables.good_enough(density):
            missing = self.least_answers(evidence.size) - evidence.yes - evidence.no
            return rest * expected / max(1, missing)
        hoped = float(density @ tables.good) * rest / (self.n_s / 2)
        return max(hoped, expected if evidence.size <= self.n_s else 0.0)

    def consider(self, evidence: Evidence, thresholds: Thresholds) -> Outcome | int:
        if evidence.drawn == 0 and evidence.mean_score <= thresholds.k_pr:
            return Outcome("reject", "S <= K_pr")
        tables, density = self._tables(evidence.size), self.density(evidence, thresholds)
        rest, answered = evidence.size - evidence.drawn, evidence.yes + evidence.no
        expected = float(density @ QUALITIES)
        bound = float(QUALITIES[min(int(np.searchsorted(np.cumsum(density), 0.05)), len(QUALITIES) - 1)])
        if rest == 0:  # every mask goes by its own verdict, whatever the cluster is called
            kind: str = "accept" if answered and evidence.yes >= self.k_a * answered else "reject"
            return Outcome(kind, "all masks verified", evidence.yes / answered if answered else None, bound)
        left = self.draw_limit(evidence.size) - evidence.drawn
        more = tables.worth_asking(density, rest, left, self.price / _STAKE)
        if more:
            return more
        if tables.good_enough(density):
            missing = self.least_answers(evidence.size) - answered
            if missing <= 0:
                return Outcome("accept", "accepting is the lesser regret", expected, bound)
            if left > 0:
                return min(missing, left)
        elif evidence.size <= self.n_s and expected >= self.price:
            return min(rest, _VERIFIED_AT_ONCE)
        if rest * expected < 1:
            return Outcome("reject", "less than one correct mask expected", expected, bound)
        return Outcome("split", "splitting is the lesser regret", expected, bound)

    def _tables(self, size: int) -> _Tables:
        halvings = max(0, round(2 * math.log2(size / self.n_s)))
        return _tables(self.n_s, self.k_a, self.annotators, min(1 + _RETRIES * halvings / 2, _TRIES))

    def density(self, evidence: Evidence, thresholds: Thresholds) -> np.ndarray:
        """Probabilities of the cluster's quality on the grid `QUALITIES`, given all answers so far."""
        if evidence.memo is None:
            density, moments = self._prior(evidence, thresholds.prior or _DEFAULT_PRIOR)
            evidence.memo = np.concatenate([density, moments])
        return self._weighed(evidence.memo[:-2], evidence.yes, evidence.no)

    def _prior(self, evidence: Evidence, prior: Prior) -> tuple[np.ndarray, tuple[float, float]]:
        """The density before the answers inside the cluster, and its moments before any answer at all."""
        moments, parent = prior.moments(evidence.mean_score, evidence.height), evidence.parent
        if parent is None or parent.memo is None:
            return prior.density(moments), moments
        # what the parent's answers outside this cluster say; those inside are weighed with the cluster itself
        above = self._weighed(parent.memo[:-2], parent.yes - evidence.yes, parent.no - evidence.no)
        return prior.descend(above, (parent.memo[-2], parent.memo[-1]), moments), moments

    def _weighed(self, density: np.ndarray, yes: int, no: int) -> np.ndarray:
        if not (yes or no):
            return density
        tables = self._tables(1)
        weight = np.log(density) + yes * tables.log_yes + no * tables.log_no
        weight = np.exp(weight - weight.max())
        return weight / weight.sum()


class _Tables:
    """What depends on the settings alone: answer probabilities and regrets on the grid of qualities."""

    def __init__(self, n_s: int, k_a: float, annotators: AnnotatorQuality, tries: float):
        from scipy.special import betaincinv

        accepted = smallest_accepted(n_s, k_a)
        # The quality at which Algorithm 1 has accepted as often as not after some tries: it comes back to a mask with
        # every cluster on the way down, and each time a sample may pass, P(at least `accepted` of n_s). Annotators who
        # pass wrong masks or turn down correct ones move what that takes.
        chance = 1 - 0.5 ** (1 / tries)
        voted = float(betaincinv(accepted, n_s - accepted + 1, chance))
        missed = 1 - annotators.specificity
        level = (voted - missed) / (annotators.sensitivity - missed)
        self.level = min(max(level, k_a - _BELOW), _HIGHEST)
        yes = QUALITIES * annotators.sensitivity + (1 - QUALITIES) * (1 - annotators.specificity)
        self.log_yes, self.log_no = np.log(yes), np.log1p(-yes)
        # what is lost, per mask, by accepting a cluster below the level and by splitting one above it
        short = self.level - QUALITIES
        self.regret = np.column_stack([_STRICT * np.maximum(short, 0), np.maximum(-short, 0)])
        self.good = np.where(self.level <= QUALITIES, QUALITIES, 0)
        ways = [(b, j) for b in _BATCHES for j in range(b + 1)]
        self.outcomes = np.array([math.comb(b, j) * yes**j * (1 - yes) ** (b - j) for b, j in ways])
        self.first = np.cumsum([0, *(b + 1 for b in _BATCHES[:-1])])

    def good_enough(self, density: np.ndarray) -> bool:
        """Whether accepting is the lesser regret."""
        accepting, splitting = density @ self.regret
        return bool(accepting <= splitting)

    def worth_asking(self, density: np.ndarray, rest: int, left: int, price: float) -> int:
        """How many more masks to ask about: the batch that puts right most per question, 0 if none brings `price`."""
        regret = density[:, None] * self.regret
        now = regret.sum(0).min() * rest
        if now < price:
            return 0
        then = np.add.reduceat((self.outcomes @ regret).min(1), self.first)
        best, gain = 0, price
        for batch, after in zip(_BATCHES, then.tolist(), strict=True):
            if batch > min(rest, left):
                break
            saved = (now - after * (rest - batch)) / batch
            if saved > gain:
                best, gain = batch, saved
        return best


@lru_cache(maxsize=1024)
def _tables(n_s: int, k_a: float, annotators: AnnotatorQuality, tries: float) -> _Tables:
    return _Tables(n_s, k_a, annotators, tries)
