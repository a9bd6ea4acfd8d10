"""What to deliver and what to ask, for one target of precision over all masks together.

Delivered are the masks most likely correct, asked about or not, as far as the whole stays precise enough. The
constraint has a price: with `value` μ per mask of slack, delivering a mask that is correct with chance p is worth
p + μ (p − target), so masks are delivered from the chance at the cut on. A question about a mask that would be voted
yes with chance y, and is then correct with chance r, is worth y (r + μ (r − target)) instead, for a mask voted no is
left out: nothing more for masks that are certain either way, most at the cut. Masks are asked about as long as one
question is expected to bring more than its price in correct masks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from campaign.records.verdict import Verdict
from campaign.search.rivals import without_rivals

NONE = -1  # verdict of a mask that has none
PRICE = 0.6  # correct masks that a question must bring, by default
FIRST_QUESTIONS = 150  # that are asked whatever they bring, in a pool of ten times as many
PER_IMAGE = 2  # questions of an image before those of others
_LEAST_GAP = 0.02  # between the target and the chance at the cut, for the value of slack


@dataclass(frozen=True)
class Beliefs:
    """What is believed of n masks, (n,) each.

    `yes` is the chance of being voted yes; `correct` that of being correct, for a mask nobody is asked about; `right`
    that of being correct once voted yes. With annotators who never err, the first two are the same and the third is 1.
    """

    yes: np.ndarray
    correct: np.ndarray
    right: np.ndarray


@dataclass(frozen=True)
class Selection:
    """A choice of masks.

    `candidates` are the rows of masks without verdict and without better rival, most likely correct first; the first
    `size` of them would be delivered unasked. `kept` are the rows voted yes that are delivered: all but those where a
    yes is worth too little. `cut` is the chance from which on masks are delivered, `value` the worth of slack, in
    correct masks.
    """

    candidates: np.ndarray
    size: int
    kept: np.ndarray
    cut: float
    value: float

    @property
    def unasked(self) -> np.ndarray:
        """Rows that would be delivered without having been asked about."""
        return self.candidates[: self.size]


def select(beliefs: Beliefs, verdict: np.ndarray, pairs: tuple[np.ndarray, np.ndarray], target: float) -> Selection:
    """The largest set that is expected to be precise enough; `verdict` (n,) int8, `NONE` where there is none."""
    yes, known = verdict == Verdict.YES, verdict != NONE
    live = without_rivals(np.where(yes, 2.0, beliefs.correct), pairs, known & ~yes)
    chance = np.where(yes, beliefs.right, beliefs.correct)
    candidates = np.flatnonzero(live & ~known)
    candidates = candidates[np.argsort(-chance[candidates], kind="stable")]
    voted = np.flatnonzero(yes)
    both = np.sort(np.concatenate([chance[candidates], chance[voted]]))[::-1]
    affordable = np.flatnonzero(np.cumsum(both - target) >= 0)
    count = int(affordable[-1]) + 1 if len(affordable) else 0
    cut = float(both[count - 1]) if count else 1.0
    size = int((chance[candidates] >= cut).sum())
    at_cut = min(float(both[min(count, len(both) - 1)]), target) if len(both) else 0.0
    return Selection(candidates, size, voted[chance[voted] >= cut], cut, at_cut / max(target - at_cut, _LEAST_GAP))


def gains(beliefs: Beliefs, selection: Selection, target: float) -> np.ndarray:
    """What asking about each candidate is expected to bring, in correct masks, (m,) in the order of `candidates`."""
    rows, value = selection.candidates, selection.value

    def worth(chance: np.ndarray) -> np.ndarray:
        return np.maximum(chance + value * (chance - target), 0.0)

    return beliefs.yes[rows] * worth(beliefs.right[rows]) - worth(beliefs.correct[rows])


def price_now(price: float, asked: int, candidates: int) -> float:
    """The price of a question where so many were asked: the first ones are worth more than the masks they bring.

    They show how the pool differs from the held-out images, and what annotators' answers are worth, before an order is
    frozen.
    """
    return 0.0 if asked < min(FIRST_QUESTIONS, candidates // 10) else price


def most_wanted(gain: np.ndarray, image: np.ndarray, price: float, per_image: int) -> np.ndarray:
    """Places of the candidates to ask about, the best first: those that bring `price`, few of an image before others.

    Answers tell of the other masks of their image, so questions are spread: the first `per_image` of each image come
    before any others, then the next ones. Masks of unknown image (below 0) are not held back.
    """
    wanted = np.flatnonzero(gain >= price)
    wanted = wanted[np.argsort(-gain[wanted], kind="stable")]
    if not len(wanted):
        return wanted
    own = np.where(image[wanted] < 0, -1 - np.arange(len(wanted)), image[wanted])
    by_image = np.argsort(own, kind="stable")
    sorted_image = own[by_image]
    start = np.flatnonzero(np.concatenate([[True], sorted_image[1:] != sorted_image[:-1]]))
    place = np.empty(len(wanted), np.int64)
    place[by_image] = np.arange(len(wanted)) - np.repeat(start, np.diff(np.append(start, len(wanted))))
    return wanted[np.argsort(place // per_image, kind="stable")]
