"""The promise of precision for one exact set of masks, made while asking.

The order of the masks that nobody was asked about is frozen, most likely correct first, and cut into nested sets. Masks
are drawn from the largest of them in one hashed order, more often where the verifier is unsure, and put to annotators.
Every answer is evidence about each set that holds the mask. The sets are tested from the smallest to the largest, each
at the full error probability, and the last of an unbroken row of successes is delivered: a fixed sequence of tests
needs no correction for their number. One may stop at any time (`campaign.certification.betting`).

A set succeeds where betting refutes that it holds so many wrong masks that what would be delivered, without the masks
found wrong and with those found right elsewhere, were less precise than promised. Wrong masks that annotators would
pass are counted on top (`campaign.certification.passing`), at an error probability of their own. Nothing rests on the
verifier being right.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from campaign.certification.betting import Draws, log_wealth
from campaign.certification.passing import Passing
from campaign.records.verdict import Verdict

SETS = 40  # nested sets
EYES_SHARE = 0.2  # of the error probability, to the estimate of what annotators pass
FIRST_SHARE = 0.8  # of it to the first promise; every later one has half of what is left
_LEAST_CHANCE = 0.005  # of being wrong, that the verifier is allowed to think
_FLOOR = 0.01  # of a mask's variance in its weight: no mask is drawn next to never
_PLANNED = 500.0  # draws for which stakes are set


@dataclass(frozen=True)
class Frozen:
    """A frozen order of n masks without a verdict: `chance` (n,) of being correct, falling; `keys` (n,) uint64, hashed.

    `unseen` (n,) is the chance without any answer on their images, by which `Passing` goes.
    `sizes` (J,) of the nested sets, rising, the last one n or less; `planned` masks would be delivered if the verifier
    were right; `voted` how many masks were voted yes and kept before, `target` the share that is to be correct.
    `overlooked` is how many wrong masks votes are expected to overlook among those planned and voted, as far as gold
    said then, less the correct ones that they take for wrong: below 0 where annotators are strict or err. `missed` is
    the share of no among their answers to masks that are correct beyond doubt. Stakes are set for `plan` draws, or for
    half of the masks where that is less.
    """

    chance: np.ndarray
    unseen: np.ndarray
    keys: np.ndarray
    sizes: np.ndarray
    planned: int
    voted: int
    target: float
    overlooked: float = 0.0
    missed: float = 0.0
    plan: float = _PLANNED

    def __len__(self) -> int:
        return len(self.chance)

    @cached_property
    def expected(self) -> np.ndarray:
        """The chance of not being voted yes that each mask is reckoned with, (n,)."""
        return np.clip(1 - self.chance * (1 - self.missed), _LEAST_CHANCE, 1 - _LEAST_CHANCE)

    @cached_property
    def weight(self) -> np.ndarray:
        """The weight of each mask in the draws, (n,)."""
        return np.sqrt(self.expected * (1 - self.expected) + _FLOOR)

    @cached_property
    def order(self) -> np.ndarray:
        """The rows in the order in which they are drawn, (n,): without replacement, in proportion to weight.

        Exponential waiting times do that (Efraimidis and Spirakis 2006, "Weighted random sampling with a reservoir").
        """
        uniform = ((self.keys >> np.uint64(11)).astype(np.float64) + 0.5) / 2**53
        return np.argsort(-np.log(uniform) / self.weight, kind="stable")

    @cached_property
    def _sums(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        e, w = self.expected, self.weight
        return np.cumsum(w), np.cumsum(e), np.cumsum(e * (1 - e) / w), np.maximum.accumulate((1 - e) / w)

    def draws(self, size: int, rows: np.ndarray, wrong: np.ndarray) -> Draws:
        """The draws that fell into the first `size` masks, of all `rows` drawn and whether they turned out wrong."""
        inside = rows < size
        own, (weight, expected, spread, most) = rows[inside], self._sums
        last = size - 1
        return Draws(
            self.weight[own], self.expected[own], wrong[inside], float(weight[last]), float(expected[last]),
            float(spread[last] / weight[last]), float(most[last]),
        )  # fmt: skip

    def aim(self, size: int) -> float:
        """The number of wrong masks among the first `size` against which stakes are set."""
        weight, _, _, _ = self._sums
        drawn = min(self.plan, len(self) / 2) * self.weight[:size] * self.expected[:size] / weight[-1]
        found = float(np.minimum(drawn, self.expected[:size]).sum())
        overlooked = self.overlooked * (size + self.voted) / max(1, self.planned + self.voted)
        return found + (1 - self.target) * (size - found + self.voted) - overlooked


def freeze(  # noqa: PLR0913 - all that is frozen
    chance: np.ndarray,
    unseen: np.ndarray,
    keys: np.ndarray,
    voted: int,
    target: float,
    planned: int,
    sets: int = SETS,
    overlooked: float = 0.0,
    missed: float = 0.0,
) -> Frozen:
    """Freezes an order of masks, `chance` falling; `sets` lie between half of what is `planned` and all of them."""
    n = len(chance)
    least = max(1, min(n, planned // 2))
    sizes = np.unique(np.linspace(least, n, sets).astype(np.int64)) if n else np.zeros(0, np.int64)
    chance, unseen = np.asarray(chance, np.float64), np.asarray(unseen, np.float64)
    return Frozen(chance, unseen, np.asarray(keys, np.uint64), sizes, planned, voted, target, overlooked, missed)


@dataclass(frozen=True)
class Promise:
    """What can be said of a delivered set.

    `size` first masks of the frozen order are delivered, less those voted down. At least `bound` of the `masks`
    delivered are correct; `met`: that is the target. No more is said where it is met, for the set was chosen by that.
    `draws` answers count, `found` of them within the set were wrong, and at most `passed` wrong masks are reckoned to
    be overlooked by votes.
    """

    size: int
    bound: float
    met: bool
    masks: int
    draws: int
    found: int
    passed: float


@dataclass(frozen=True)
class Voted:
    """Masks voted yes and delivered that are not in the frozen order: the unseen chance of each, (m,).

    `removed` masks have left the set since it was frozen, `added` ones have come to it, of whatever kind: all of the
    one are taken for correct, all of the other for wrong.
    """

    unseen: np.ndarray
    removed: int = 0
    added: int = 0


def promise(frozen: Frozen, verdict: np.ndarray, voted: Voted, passing: Passing, alpha: float) -> Promise:
    """The best promise at error probability `alpha`, from the verdicts of the frozen masks, (n,) int8, −1 for none.

    Draws count up to the first one without a verdict. Where no set reaches the target, the smallest one is delivered,
    for it is the most precise, and what is certain of it is promised.
    """
    test = Test(frozen, verdict, voted, passing, alpha)
    best: State | None = None
    for size in frozen.sizes.tolist():
        state = test.at(size)
        allowed = state.allowed(frozen.target)
        if allowed < 0 or not test.refuted(state, allowed + 1):
            break
        best = state
    if best is not None:
        return Promise(best.size, frozen.target, True, best.masks + best.added, len(test.rows), best.found, best.passed)
    state = test.at(int(frozen.sizes[0]) if len(frozen.sizes) else 0)
    least = test.promised(state)
    return least if len(frozen.sizes) else replace(least, met=least.bound >= frozen.target)


@dataclass(frozen=True)
class State:
    """One nested set: delivered masks, wrong ones found in it, and wrong ones that look right at most."""

    size: int
    masks: int
    unasked: int
    found: int
    passed: float
    removed: int
    added: int

    def allowed(self, target: float) -> int:
        """Wrong masks that the whole set may hold, found ones included, for the target; below 0 where it cannot be."""
        slack = (1 - target) * (self.masks + self.added) - self.passed - self.removed - self.added
        return self.found + int(np.floor(slack + 1e-9)) if slack >= 0 else -1

    def bound(self, wrong: int) -> float:
        """The precision that is certain where the set holds at most `wrong` wrong masks, found ones included."""
        left = wrong - self.found + self.passed + self.removed + self.added
        masks = self.masks + self.added
        return float(np.clip(1 - left / masks, 0.0, 1.0)) if masks else 1.0


class Test:
    """The evidence about all nested sets, or about those of the first `within` masks at most.

    Draws count up to the first one among these without a verdict: those that fall outside say nothing of such sets.
    """

    def __init__(
        self,
        frozen: Frozen,
        verdict: np.ndarray,
        voted: Voted,
        passing: Passing,
        alpha: float,
        within: int | None = None,
    ):
        self.frozen, self.verdict, self.voted, self.passing = frozen, np.asarray(verdict), voted, passing
        self.limit = float(np.log(1 / (alpha * (1 - EYES_SHARE))))
        self.eyes_alpha = alpha * EYES_SHARE
        order = frozen.order if within is None else frozen.order[frozen.order < within]
        answered = self.verdict[order] >= 0
        count = int(np.argmin(answered)) if not answered.all() else len(order)
        self.rows, self.coming = order[:count], order[count:]
        self.wrong = self.verdict[self.rows] != Verdict.YES
        self._bins = passing.bins(frozen.unseen)
        self._width = len(passing.edges) + 1
        self._elsewhere = passing.counts(voted.unseen) if len(voted.unseen) else np.zeros(self._width, np.int64)

    def at(self, size: int) -> State:
        """The state of the first `size` masks."""
        inside, outside = self.verdict[:size], self.verdict[size:]
        unasked = np.bincount(self._bins[:size][inside < 0], minlength=self._width)
        yes = np.bincount(self._bins[:size][inside == Verdict.YES], minlength=self._width)
        beyond = np.bincount(self._bins[size:][outside == Verdict.YES], minlength=self._width)
        voted = yes + beyond + self._elsewhere
        found = int((inside >= 0).sum() - (inside == Verdict.YES).sum())
        passed = self.passing.most(unasked, voted, self.eyes_alpha)
        return State(
            size, int(unasked.sum() + voted.sum()), int(unasked.sum()), found, passed, self.voted.removed,
            self.voted.added,
        )  # fmt: skip

    def refuted(self, state: State, at_least: int) -> bool:
        """Whether betting refutes that the set holds so many wrong masks."""
        if at_least > state.found + state.unasked:
            return True  # more than there can be, whatever those say that nobody was asked about
        return bool(self.wealth(state, at_least).max() >= self.limit)

    def wealth(self, state: State, at_least: int) -> np.ndarray:
        """The log wealth after each draw of betting against so many wrong masks in the set."""
        draws = self.frozen.draws(state.size, self.rows, self.wrong)
        return log_wealth(draws, at_least, self.frozen.aim(state.size))

    def promised(self, state: State) -> Promise:
        """The bound of a set that was fixed beforehand: the least number of wrong masks that is refuted, by halving."""
        low, high = state.found, state.found + state.unasked  # `high` + 1 is refuted, `low` may not be
        while low < high:
            middle = (low + high) // 2
            if self.refuted(state, middle + 1):
                high = middle
            else:
                low = middle + 1
        masks = state.masks + state.added
        return Promise(state.size, state.bound(high), False, masks, len(self.rows), state.found, state.passed)


def share_of(attempt: int, alpha: float) -> float:
    """The error probability of the promise number `attempt`, from 1: all of them together stay within `alpha`."""
    if attempt == 1:
        return FIRST_SHARE * alpha
    return (1 - FIRST_SHARE) * alpha * 0.5 ** (attempt - 1)


def digest_of(mask_ids: np.ndarray) -> str:
    """Names one exact set of masks."""
    ids = np.sort(np.asarray(mask_ids, np.int64)).astype("<i8")
    return hashlib.blake2b(ids.tobytes(), digest_size=16).hexdigest()
