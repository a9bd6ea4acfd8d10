"""What to deliver and what to ask, for one target of precision over all masks together.

Delivered are masks voted yes and, unasked, those most likely correct, as far as the whole stays precise enough. The
constraint has a price: with `value` μ per mask of slack, delivering a mask of chance p unasked is worth
p + μ (p − target), so it is delivered from the chance at the cut on. Asking first is worth p (1 + μ (1 − target)),
for a wrong mask is then left out. A question is worth the difference: nothing for masks that are certain either way,
most at the cut. Masks are asked about as long as one question is expected to bring more than its price in correct
masks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from campaign.records.verdict import Verdict
from campaign.search.rivals import without_rivals

NONE = -1  # verdict of a mask that has none
_LEAST_GAP = 0.02  # between the target and the chance at the cut, for the value of slack


@dataclass(frozen=True)
class Selection:
    """A choice of masks.

    `candidates` are the rows of masks without verdict and without better rival, most likely correct first; the first
    `size` of them would be delivered unasked, at the cut with chance `cut`. `yes` are the rows voted yes. `value` is
    the worth of slack, in correct masks.
    """

    candidates: np.ndarray
    size: int
    cut: float
    value: float
    yes: np.ndarray

    @property
    def unasked(self) -> np.ndarray:
        """Rows that would be delivered without having been asked about."""
        return self.candidates[: self.size]


def select(
    chance: np.ndarray, verdict: np.ndarray, pairs: tuple[np.ndarray, np.ndarray], target: float, passed: float = 0.0
) -> Selection:
    """The largest set that is expected to be precise enough.

    `chance` (n,) of being correct; `verdict` (n,) int8, `NONE` without one; `pairs` of rivals; `passed` the share of
    masks voted yes that are wrong all the same.
    """
    chance = np.asarray(chance, np.float64)
    yes, known = verdict == Verdict.YES, verdict != NONE
    rank = np.where(yes, 2.0, chance)
    live = without_rivals(rank, pairs, known & ~yes)
    candidates = np.flatnonzero(live & ~known)
    candidates = candidates[np.argsort(-chance[candidates], kind="stable")]
    slack = np.cumsum(chance[candidates] - target) + (1 - passed - target) * int(yes.sum())
    affordable = np.flatnonzero(slack >= 0)
    size = int(affordable[-1]) + 1 if len(affordable) else 0
    cut = float(chance[candidates[min(size, len(candidates) - 1)]]) if len(candidates) else 0.0
    cut = min(cut, target)
    return Selection(candidates, size, cut, cut / max(target - cut, _LEAST_GAP), np.flatnonzero(yes))


def gains(chance: np.ndarray, selection: Selection, target: float) -> np.ndarray:
    """What asking about each candidate is expected to bring, in correct masks, (m,) in the order of `candidates`."""
    p, value = np.asarray(chance, np.float64)[selection.candidates], selection.value
    return p * (1 + value * (1 - target)) - np.maximum(p - value * (target - p), 0.0)


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
