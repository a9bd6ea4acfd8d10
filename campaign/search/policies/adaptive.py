"""The default policy: asks as long as an answer is worth its price, and counts every answer it already has."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from campaign.records.decision import Kind
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
_RETRIES = 0.33  # of Algorithm 1 for each halving of a cluster on its way down a tree, see `_level`
_TRIES = 3.5  # of it, at most
_STRICT = 3.5  # a mask wrongly let in weighs as much as so many wrongly left out
_STAKE = 6.0  # and a misjudged mask as much as so many single ones verified
_HIGHEST = 0.98  # level, however badly annotators err
_BELOW = 0.13  # the level may be below what is asked for, however small the samples
_DEFAULT_PRIOR = Prior()
_GRID = len(QUALITIES)
_ROUNDING = 1 - 1e-9  # sums in another order differ by less
_QUALITY_LIST = QUALITIES.tolist()
_FIRST_WAY = np.cumsum([0, *(batch + 1 for batch in _BATCHES[:-1])])  # in which each batch can turn out


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
        """The root alone."""
        return [int(tree.root)]

    def draw_limit(self, size: int) -> int:
        """The most masks that are drawn from a cluster of `size` masks."""
        return min(size, max(_MOST * self.n_s, 2 * self.least_answers(size)))

    def least_answers(self, size: int) -> int:
        """Answers without which no cluster of `size` masks is accepted."""
        return min(size, self.n_s, 1 + math.ceil(math.log2(size)))

    def priority(self, evidence: Evidence, thresholds: Thresholds) -> float:
        """Masks that the next questions are expected to bring, per question."""
        tables, density = self._tables(evidence.size), self.density(evidence, thresholds)
        belief = tables.belief(density)
        rest = evidence.size - evidence.drawn
        if belief.good_enough:
            missing = self.least_answers(evidence.size) - evidence.yes - evidence.no
            return rest * belief.quality / max(1, missing)
        hoped = float(density @ tables.good) * rest / (self.n_s / 2)
        return max(hoped, belief.quality if evidence.size <= self.n_s else 0.0)

    def consider(self, evidence: Evidence, thresholds: Thresholds) -> Outcome | int:
        """More masks as long as answers are worth their price, then whatever is the lesser regret."""
        if evidence.drawn == 0 and evidence.mean_score <= thresholds.k_pr:
            return Outcome(Kind.REJECT, "S <= K_pr")
        density = self.density(evidence, thresholds)
        if evidence.drawn == evidence.size:
            return self._all_verified(evidence, density)
        tables = self._tables(evidence.size)
        belief = tables.belief(density)
        return self._more(evidence, tables, density, belief) or self._decided(evidence, density, belief)

    def _more(self, evidence: Evidence, tables: _Tables, density: np.ndarray, belief: _Belief) -> int:
        """How many more masks to ask about, 0 to decide."""
        rest, price = evidence.size - evidence.drawn, self.price / _STAKE
        # no answers save more than all that is lost without them, so most clusters need no closer look
        if min(belief.accepting, belief.splitting) * rest >= price * _ROUNDING:
            more = tables.worth_asking(density, rest, self.draw_limit(evidence.size) - evidence.drawn, price)
            if more:
                return more
        if belief.good_enough:
            missing = self.least_answers(evidence.size) - evidence.yes - evidence.no
            return max(0, min(missing, self.draw_limit(evidence.size) - evidence.drawn))
        if evidence.size <= self.n_s and belief.quality >= self.price:
            return min(rest, _VERIFIED_AT_ONCE)
        return 0

    def _decided(self, evidence: Evidence, density: np.ndarray, belief: _Belief) -> Outcome:
        """The decision once nothing more is worth asking."""
        bound = _lower_bound(density)
        if belief.good_enough and evidence.yes + evidence.no >= self.least_answers(evidence.size):
            return Outcome(Kind.ACCEPT, "accepting is the lesser regret", belief.quality, bound)
        if (evidence.size - evidence.drawn) * belief.quality < 1:
            return Outcome(Kind.REJECT, "less than one correct mask expected", belief.quality, bound)
        return Outcome(Kind.SPLIT, "splitting is the lesser regret", belief.quality, bound)

    def _all_verified(self, evidence: Evidence, density: np.ndarray) -> Outcome:
        """Every mask goes by its own verdict, whatever the cluster is called."""
        answered = evidence.yes + evidence.no
        kind = Kind.ACCEPT if answered and evidence.yes >= self.k_a * answered else Kind.REJECT
        quality = evidence.yes / answered if answered else None
        return Outcome(kind, "all masks verified", quality, _lower_bound(density))

    def density(self, evidence: Evidence, thresholds: Thresholds) -> np.ndarray:
        """Probabilities of the cluster's quality on the grid `QUALITIES`, (G,), given all answers so far.

        What was believed before the answers inside the cluster is kept in `evidence.memo`, (G + 2,) float64: the
        density, then the moments of the cluster's own prior.
        """
        if evidence.memo is None:
            evidence.memo = self._prior(evidence, thresholds.prior or _DEFAULT_PRIOR)
        return self._weighed(evidence.memo[:_GRID], evidence.yes, evidence.no)

    def chance_of_yes(self, evidence: Evidence, thresholds: Thresholds, rng: np.random.Generator) -> float:
        """Chance that a mask of the cluster is voted yes, for a quality drawn from what is believed of it."""
        cumulative = self.density(evidence, thresholds).cumsum()
        drawn = cumulative.searchsorted(rng.random() * cumulative[-1])
        return float(_voted_yes(self.annotators)[drawn])

    def _prior(self, evidence: Evidence, prior: Prior) -> np.ndarray:
        """The memo of a cluster: its density before the answers inside it, its moments before any answer at all."""
        moments, parent = prior.moments(evidence.mean_score, evidence.height), evidence.parent
        memo = np.empty(_GRID + 2)
        memo[_GRID:] = moments
        if parent is None or parent.memo is None:
            memo[:_GRID] = prior.density(moments)
        else:
            # what the parent's answers outside this cluster say; those inside are weighed with the cluster itself
            above = self._weighed(parent.memo[:_GRID], parent.yes - evidence.yes, parent.no - evidence.no)
            prior.descend(above, parent.memo[_GRID:].tolist(), moments, out=memo[:_GRID])
        return memo

    def _weighed(self, density: np.ndarray, yes: int, no: int) -> np.ndarray:
        """A density after so many answers."""
        return _weighed(self.annotators, density.tobytes(), yes, no) if yes or no else density

    def _tables(self, size: int) -> _Tables:
        """The tables for clusters of `size` masks: one for each half octave above the sample size, to a limit."""
        halves = round(2 * math.log2(size / self.n_s))
        return self._by_half_octave[min(max(halves, 0), len(self._by_half_octave) - 1)]

    @cached_property
    def _by_half_octave(self) -> list[_Tables]:
        last = math.ceil(2 * (_TRIES - 1) / _RETRIES)
        return [
            _tables(self.n_s, self.k_a, self.annotators, min(1 + _RETRIES * i / 2, _TRIES)) for i in range(last + 1)
        ]


class _Belief(NamedTuple):
    """Regrets, per mask, of accepting and of splitting a cluster, and its expected quality."""

    accepting: float
    splitting: float
    quality: float

    @property
    def good_enough(self) -> bool:
        """Whether accepting is the lesser regret."""
        return self.accepting <= self.splitting


class _Tables:
    """What depends on the settings alone, on the grid of qualities.

    `regret` (G, 2): what is lost, per mask, by accepting a cluster below the level and by splitting one above it.
    `good` (G,): the quality, 0 below the level. `outcomes` (W, G): the chances of all ways in which batches of answers
    can turn out, batch after batch.
    """

    def __init__(self, n_s: int, k_a: float, annotators: AnnotatorQuality, tries: float):
        self.level = _level(n_s, k_a, annotators, tries)
        short = self.level - QUALITIES
        self.regret = np.column_stack([_STRICT * np.maximum(short, 0), np.maximum(-short, 0)])
        self.good = np.where(self.level <= QUALITIES, QUALITIES, 0)
        yes = _voted_yes(annotators)
        ways = [(b, j) for b in _BATCHES for j in range(b + 1)]
        self.outcomes = np.array([math.comb(b, j) * yes**j * (1 - yes) ** (b - j) for b, j in ways])

    def belief(self, density: np.ndarray) -> _Belief:
        """What a density (G,) comes to."""
        accepting, splitting = (density @ self.regret).tolist()
        return _Belief(accepting, splitting, float(density @ QUALITIES))

    def worth_asking(self, density: np.ndarray, rest: int, left: int, price: float) -> int:
        """How many more masks to ask about: the batch that puts right most per question, 0 if none brings `price`.

        `rest` masks of the cluster have no answer, and `left` may still be drawn.
        """
        regret = density[:, None] * self.regret
        now = min(np.add.reduce(regret).tolist()) * rest
        if now < price:
            return 0
        # Batches that cannot change the decision all save alike but for rounding, so added up in another order other
        # batches would be asked.
        after = (self.outcomes @ regret).T
        then = np.add.reduceat(np.minimum(after[0], after[1]), _FIRST_WAY).tolist()
        best, gain = 0, price
        for batch, still in zip(_BATCHES, then, strict=True):
            if batch > min(rest, left):
                break
            saved = (now - still * (rest - batch)) / batch
            if saved > gain:
                best, gain = batch, saved
        return best


@lru_cache(maxsize=1024)
def _tables(n_s: int, k_a: float, annotators: AnnotatorQuality, tries: float) -> _Tables:
    return _Tables(n_s, k_a, annotators, tries)


def _level(n_s: int, k_a: float, annotators: AnnotatorQuality, tries: float) -> float:
    """The quality at which Algorithm 1 has accepted as often as not after some tries.

    It comes back to a mask with every cluster on the way down, and each time a sample may pass, with the chance of
    `smallest_accepted` of n_s answers. Annotators who pass wrong masks or turn down correct ones move what that takes.
    """
    from scipy.special import betaincinv

    accepted = smallest_accepted(n_s, k_a)
    chance = 1 - 0.5 ** (1 / tries)
    voted = float(betaincinv(accepted, n_s - accepted + 1, chance))
    passed = 1 - annotators.specificity
    level = (voted - passed) / (annotators.sensitivity - passed)
    return min(max(level, k_a - _BELOW), _HIGHEST)


def _voted_yes(annotators: AnnotatorQuality) -> np.ndarray:
    """Chance that a mask of a cluster is voted yes, (G,), for each quality of the cluster."""
    return QUALITIES * annotators.sensitivity + (1 - QUALITIES) * (1 - annotators.specificity)


@lru_cache(maxsize=256)
def _log_chances(annotators: AnnotatorQuality) -> tuple[np.ndarray, np.ndarray]:
    """Logarithms of the chances of a yes and of a no, (G,) each, for each quality of the cluster."""
    yes = _voted_yes(annotators)
    return np.log(yes), np.log1p(-yes)


@lru_cache(maxsize=8192)
def _weighed(annotators: AnnotatorQuality, density: bytes, yes: int, no: int) -> np.ndarray:
    """A density after so many answers; kept, for a cluster's rank, its decision and its children want the same."""
    log_yes, log_no = _log_chances(annotators)
    weight = np.log(np.frombuffer(density))
    weight += yes * log_yes
    weight += no * log_no
    weight -= weight.max()
    np.exp(weight, out=weight)
    weight /= weight.sum()
    weight.flags.writeable = False
    return weight


def _lower_bound(density: np.ndarray) -> float:
    """The quality that a cluster exceeds with 95 %, on the grid."""
    return _QUALITY_LIST[min(int(density.cumsum().searchsorted(0.05)), _GRID - 1)]
