"""What to deliver and what to ask, for one target of precision over all masks together.

Delivered are the masks most likely correct, asked about or not, as far as the whole stays precise enough. The
constraint has a price: with `value` μ per mask of slack, delivering a mask that is correct with chance p is worth
p + μ (p − target), so masks are delivered from the chance at the cut on. A question about a mask that would be voted
yes with chance y, and is then correct with chance r, is worth y (r + μ (r − target)) instead, for a mask voted no is
left out: nothing more for masks that are certain either way, most at the cut. Masks are asked about as long as one
question is expected to bring more than its price in correct masks.

Where every class is to be precise enough by itself as well, only the masks of a class most likely correct may be
delivered, as far as the class stays precise enough; where that binds, slack of the class has a price of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from campaign.records.verdict import Verdict
from campaign.search.portions import portions
from campaign.search.rivals import without_rivals

NONE = -1  # verdict of a mask that has none
PRICE = 0.6  # correct masks that a question must bring, by default
FIRST_QUESTIONS = 150  # that are asked whatever they bring, in a pool of ten times as many
PER_IMAGE = 2  # questions of an image before those of others
# How much more precise than its target a large class is planned, times the deviation of one mask at it, and of how many
# masks the half of that: what a few thousand draws can tell apart. Small classes are mostly drawn, and need none.
_CLASS_MARGIN, _CLASS_HALF = 0.0875, 10_000
_LEAST_GAP = 0.02  # between the target and the chance at the cut, for the value of slack


@dataclass(frozen=True)
class PerClass:
    """A target of precision for every class by itself: `class_id` (n,) of all masks."""

    class_id: np.ndarray
    target: float

    def planned(self, masks: int) -> float:
        """How precise a class of so many masks is planned, so that its target can be proved."""
        margin = _CLASS_MARGIN * np.sqrt(self.target * (1 - self.target)) * masks / (masks + _CLASS_HALF)
        return self.target + min(float(margin), (1 - self.target) / 2)


@dataclass(frozen=True)
class Beliefs:
    """What is believed of n masks: `yes` (n,) is the chance of being voted yes, `kind` (n,) uint8 one of k kinds.

    Of a kind, masks nobody is asked about are so much `less` (k,) likely correct than voted yes, and once voted yes
    they are correct with chance `worth` (k,). With annotators who never err, that is 0 and 1.
    """

    yes: np.ndarray
    kind: np.ndarray
    less: np.ndarray
    worth: np.ndarray

    def correct(self, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """The chance of these rows of being correct, (m,), for masks nobody is asked about."""
        yes, kind = self.yes[rows], self.kind[rows]
        found = np.empty(len(yes))
        for part in portions(len(yes)):
            found[part] = np.clip(yes[part] - self.less[kind[part]], 0.0, 1.0)
        return found

    def right(self, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """The chance of these rows of being correct once voted yes, (m,)."""
        return self.worth[self.kind[rows]]


@dataclass(frozen=True)
class Selection:
    """A choice of masks.

    `candidates` are the rows of masks without verdict and without better rival, most likely correct first; the first
    `size` of them would be delivered unasked. `kept` are the rows voted yes that are delivered: all but those where a
    yes is worth too little. `cut` is the chance from which on masks are delivered, `value` the worth of slack, in
    correct masks.

    With a target of every class, `class_cut` (n,) is the chance from which on masks of each mask's class may be
    delivered, and `class_value` (n,) the worth of slack in it; those candidates that may not be come last.
    """

    candidates: np.ndarray
    size: int
    kept: np.ndarray
    cut: float
    value: float
    per_class: PerClass | None = None
    class_cut: np.ndarray | None = None
    class_value: np.ndarray | None = None

    @property
    def unasked(self) -> np.ndarray:
        """Rows that would be delivered without having been asked about."""
        return self.candidates[: self.size]

    def delivers(self, chance: np.ndarray) -> np.ndarray:
        """Which of all masks with such a chance of being correct, (n,), are delivered where they are voted yes."""
        return chance >= (self.cut if self.class_cut is None else np.maximum(self.cut, self.class_cut))


def select(
    beliefs: Beliefs,
    verdict: np.ndarray,
    pairs: tuple[np.ndarray, np.ndarray],
    target: float,
    per_class: PerClass | None = None,
) -> Selection:
    """The largest set that is expected to be precise enough; `verdict` (n,) int8, `NONE` where there is none."""
    voted = np.flatnonzero(verdict == Verdict.YES)
    candidates, chance = _ranked(beliefs, verdict, voted, pairs)
    of_voted = beliefs.right(voted)
    if per_class is not None:
        return _select_by_class((candidates, chance), (voted, of_voted), target, per_class)
    return _selected((candidates, chance), (voted, of_voted), target)


_Ranked = tuple[np.ndarray, np.ndarray]  # rows, and how likely each is correct


def _ranked(beliefs: Beliefs, verdict: np.ndarray, voted: np.ndarray, pairs: tuple[np.ndarray, np.ndarray]) -> _Ranked:
    """The candidates, most likely correct first."""
    rank = beliefs.correct()
    rank[voted] = 2.0
    free = without_rivals(rank, pairs, (verdict != NONE) & (verdict != Verdict.YES))
    free[voted] = False
    rows = np.flatnonzero(free)
    falling = np.negative(rank, out=rank)[rows]
    del rank  # as large as all masks, and sorting takes as much again
    order = np.argsort(falling, kind="stable")
    falling = falling[order]
    return rows[order], np.negative(falling, out=falling)


def _selected(unasked: _Ranked, yes: _Ranked, target: float) -> Selection:
    """The selection of candidates, most likely correct first, and masks voted yes."""
    (candidates, chance), (voted, of_voted) = unasked, yes
    both = np.concatenate([chance, of_voted])
    both.sort()
    both = both[::-1]
    count = _affordable(both, target)
    cut = float(both[count - 1]) if count else 1.0
    at_cut = min(float(both[min(count, len(both) - 1)]), target) if len(both) else 0.0
    size = int(np.count_nonzero(chance >= cut))
    return Selection(candidates, size, voted[of_voted >= cut], cut, at_cut / max(target - at_cut, _LEAST_GAP))


def _affordable(falling: np.ndarray, target: float) -> int:
    """How many masks, the first of these `falling` (n,) chances, are together as precise as `target`; the most."""
    count, slack = 0, 0.0
    for part in portions(len(falling)):
        left = falling[part] - target
        left[0] += slack
        np.cumsum(left, out=left)
        affordable = np.flatnonzero(left >= 0)
        count, slack = part.start + int(affordable[-1]) + 1 if len(affordable) else count, left[-1]
    return count


def _select_by_class(unasked: _Ranked, yes: _Ranked, target: float, per_class: PerClass) -> Selection:
    """The selection among those masks of each class that leave it precise enough."""
    (candidates, of_candidates), (voted, of_voted) = unasked, yes
    cut = np.full(len(per_class.class_id), per_class.target)
    doubted = np.zeros(len(cut))  # the chance of the first mask of the class that may not be delivered
    rows, chance = np.concatenate([candidates, voted]), np.concatenate([of_candidates, of_voted])
    order = np.lexsort((-chance, per_class.class_id[rows]))
    own, chance = per_class.class_id[rows[order]], chance[order]
    start = np.flatnonzero(np.concatenate([[True], own[1:] != own[:-1]])) if len(rows) else np.zeros(0, np.int64)
    ends = {}
    for first, last in pairwise([*start.tolist(), len(rows)]):
        falling = chance[first:last]
        count = _affordable(falling, per_class.planned(len(falling)))
        at_cut = min(falling[count - 1], per_class.target) if count else per_class.target  # as precise: never too much
        ends[int(own[first])] = at_cut, falling[count] if count < len(falling) else 0.0
    for class_id, (at_cut, beyond) in ends.items():
        here = per_class.class_id == class_id
        cut[here], doubted[here] = at_cut, beyond
    may, may_voted = of_candidates >= cut[candidates], of_voted >= cut[voted]
    chosen = _selected((candidates[may], of_candidates[may]), (voted[may_voted], of_voted[may_voted]), target)
    if chosen.size == len(chosen.candidates):  # more slack over all would bring nothing
        chosen = replace(chosen, value=0.0)
    # Slack of a class is worth something where masks are left out that would be delivered for the sake of all.
    worth = doubted + chosen.value * (doubted - target)
    value = np.where(worth > 0, worth / np.maximum(per_class.target - doubted, _LEAST_GAP), 0.0)
    ordered = np.concatenate([chosen.candidates, candidates[~may]])
    return replace(chosen, candidates=ordered, per_class=per_class, class_cut=cut, class_value=value)


def gains(beliefs: Beliefs, selection: Selection, target: float) -> np.ndarray:
    """What asking about each candidate is expected to bring, in correct masks, (m,) in the order of `candidates`."""
    value = selection.value

    def worth(chance: np.ndarray, rows: np.ndarray) -> np.ndarray:
        own = chance + value * (chance - target)
        if selection.per_class is not None and selection.class_value is not None:
            own = own + selection.class_value[rows] * (chance - selection.per_class.target)
        return np.maximum(own, 0.0)

    found = np.empty(len(selection.candidates))
    for part in portions(len(found)):
        rows = selection.candidates[part]
        found[part] = beliefs.yes[rows] * worth(beliefs.right(rows), rows) - worth(beliefs.correct(rows), rows)
    return found


def price_now(price: float, asked: int, candidates: int) -> float:
    """The price of a question where so many were asked: the first ones are worth more than the masks they bring.

    They show how the pool differs from the held-out images, and what annotators' answers are worth, before an order is
    frozen.
    """
    return 0.0 if asked < first_questions(candidates) else price


def first_questions(candidates: int) -> int:
    """How many questions are asked whatever they bring."""
    return min(FIRST_QUESTIONS, candidates // 10)


def most_wanted(
    gain: np.ndarray, rows: np.ndarray, image: np.ndarray, price: float, per_image: int, most: int | None = None
) -> np.ndarray:
    """Places of the candidates to ask about, the best first: those that bring `price`, few of an image before others.

    Answers tell of the other masks of their image, so questions are spread: the first `per_image` of each image come
    before any others, then the next ones. Candidates are `rows` (m,) of masks, whose `image` (n,) may be unknown (below
    0): those are not held back. At `most` so many places.
    """
    wanted = np.flatnonzero(gain >= price)
    looked = len(wanted) if most is None else max(8 * most, 1)
    while True:
        some = wanted
        if looked < len(wanted):  # the best, and all that bring as much as the last of them
            some = wanted[gain[wanted] >= np.partition(gain[wanted], -looked)[-looked]]
        some = some[np.argsort(-gain[some], kind="stable")]
        of = image[rows[some]]
        turn = place_in_group(np.where(of < 0, -1 - np.arange(len(some)), of)) // per_image
        # Whoever is among the first of an image is so whatever brings less.
        if len(some) == len(wanted) or np.count_nonzero(turn == 0) >= (most or 0):
            return some[np.argsort(turn, kind="stable")][:most]
        looked *= 8


def place_in_group(group: np.ndarray) -> np.ndarray:
    """How many of those before each one are of its group, (n,) int64.

    >>> place_in_group(np.array([7, 2, 7, 7, 2])).tolist()
    [0, 0, 1, 2, 1]
    """
    order = np.argsort(group, kind="stable")
    own = group[order]
    start = np.flatnonzero(np.concatenate([[True], own[1:] != own[:-1]])) if len(group) else np.zeros(0, np.int64)
    place = np.empty(len(group), np.int64)
    place[order] = np.arange(len(group)) - np.repeat(start, np.diff(np.append(start, len(group))))
    return place
