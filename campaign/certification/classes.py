"""Promises of precision for every class by itself, beside the one over all masks: from the same order and draws.

A weighted order without replacement, restricted to the masks of a class, is one of these: the keys are independent. So
what was drawn for all is evidence about each class, and more is drawn from the order of those classes whose promise
does not stand yet. A class's parts of the nested sets are nested too, and are tested in a fixed sequence, from the
smallest that is not much smaller than what was planned of it, up to what is delivered of it.

What is delivered is decided by the promise over all alone. Where a class's own promise does not reach that, nothing is
promised of the class: a bound would be one of a set that was chosen by the answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from campaign.certification.betting import Draws
from campaign.certification.passing import Passing, passing
from campaign.certification.promise import Frozen, State, Test, Voted
from campaign.certification.stopping import GIVE_UP
from campaign.quality.eyes import Eyes
from campaign.records.verdict import Verdict

# Of an attempt's error probability, to all classes together. It is shared out evenly among them (Bonferroni): they are
# promised at once, each whether or not the others are, by answers that make some of them false together or none.
CLASSES_SHARE = 0.5
_LEAST_PART = 50  # masks of a class, in the smallest set of which it is tested
_STEPS = 100  # in which it is looked up how many more draws will do
_SLOWER = 1.5  # times the variance: what betting needs beyond a normal bound of the same error
_LEAST_HELDOUT = 20  # held-out masks of a class without which those of all classes must do for it
_PRIOR = 30.0  # draws that the verifier's word on a class is worth


@dataclass(frozen=True)
class ClassOrder:
    """A class's part of a frozen order: the k `rows` of its masks there, rising, and their own frozen order."""

    rows: np.ndarray
    frozen: Frozen


@dataclass(frozen=True)
class ClassOrders:
    """What was frozen of classes, beside the order of `all_classes`: `class_id` (n,) of its masks.

    `target` is that of each class; the classes `ids` share the error probability. `voted` is how many masks of each
    were voted yes and kept before.
    """

    all_classes: Frozen
    class_id: np.ndarray
    target: float
    ids: tuple[int, ...]
    voted: Mapping[int, int]

    @cached_property
    def parts(self) -> dict[int, ClassOrder]:
        """{class: its part}."""
        by_class = np.argsort(self.class_id, kind="stable")
        ends = np.searchsorted(self.class_id[by_class], [(c, c + 1) for c in self.ids])
        return {c: self._part(c, by_class[a:b]) for c, (a, b) in zip(self.ids, ends.tolist(), strict=True)}

    def _part(self, class_id: int, rows: np.ndarray) -> ClassOrder:
        whole, voted = self.all_classes, self.voted.get(class_id, 0)
        planned = int(np.searchsorted(rows, whole.planned))
        sizes = np.unique(np.searchsorted(rows, whole.sizes))
        share = (planned + voted) / max(1, whole.planned + whole.voted)
        own = Frozen(
            whole.chance[rows], whole.unseen[rows], whole.keys[rows], sizes, planned, voted, self.target,
            whole.overlooked * share, whole.missed, float(GIVE_UP),
        )  # fmt: skip
        return ClassOrder(rows, own)


@dataclass(frozen=True)
class ClassPromise:
    """What can be said of the `masks` that are delivered of a class.

    `met`: with `draws` answers that count, `target` of them are certain to be correct. Otherwise about `needed` more
    draws would do, None where none would; `worth`: they are worth their price. `coming` (k,) are the rows of the frozen
    order that are drawn next for the class.
    """

    class_id: int
    target: float
    masks: int
    met: bool
    draws: int
    needed: int | None
    worth: bool
    coming: np.ndarray

    def due(self, verdict: np.ndarray) -> np.ndarray:
        """The rows that are to be drawn now, as many as are needed, by the verdicts of the frozen masks, (n,)."""
        return self.coming[verdict[self.coming] < 0][: self.needed]


@dataclass(frozen=True)
class ClassTerms:
    """At which error probability all classes together are promised, and what a question must bring."""

    alpha: float
    price: float


@dataclass(frozen=True)
class Heldout:
    """Held-out masks, (h,) each: class, true IoU, the verifier's cross-fitted chance before any answer, image."""

    class_id: np.ndarray
    iou: np.ndarray
    chance: np.ndarray
    image: np.ndarray


@dataclass(frozen=True)
class Passed:
    """What annotators pass: of `all_classes`, and of the held-out masks of each class by themselves (`own`).

    The same eyes pass more wrong masks of a class more of whose masks lie near the threshold, so a class has to stand
    by both.
    """

    all_classes: Passing
    own: Mapping[int, Passing]

    def of_class(self, class_id: int) -> list[Passing]:
        """By which a class has to stand."""
        return [self.all_classes, *([self.own[class_id]] if class_id in self.own else [])]


def passed_by_class(eyes: Eyes, of_all: Passing, heldout: Heldout, k_iou: float, seed: int) -> Passed:
    """What annotators with these eyes pass of each class of which enough is held out."""
    own = {}
    for class_id, count in zip(*(c.tolist() for c in np.unique(heldout.class_id, return_counts=True)), strict=True):
        if count >= _LEAST_HELDOUT:
            here = heldout.class_id == class_id
            own[class_id] = passing(
                eyes, heldout.iou[here], heldout.chance[here], heldout.image[here], k_iou, seed + class_id
            )
    return Passed(of_all, own)


def class_promises(
    orders: ClassOrders,
    verdict: np.ndarray,
    voted: Mapping[int, Voted],
    passed: Passed,
    terms: ClassTerms,
    size: int,
) -> list[ClassPromise]:
    """The promises of the classes of which any mask is delivered, where the first `size` of the frozen order are.

    `verdict` (n,) int8 of the frozen masks, −1 for none; `voted` has what is delivered besides, by class. A class that
    had no part when the order was frozen is promised nothing.
    """
    found = []
    for class_id in orders.ids:
        part, elsewhere = orders.parts[class_id], voted.get(class_id, Voted(np.zeros(0)))
        within = int(np.searchsorted(part.rows, size))
        alpha = terms.alpha / len(orders.ids)
        both = [
            _promised(
                class_id, Test(part.frozen, verdict[part.rows], elsewhere, passed_by, alpha, within), within,
                part.rows, terms.price,
            )
            for passed_by in passed.of_class(class_id)
        ]  # fmt: skip
        if both[0].masks:
            found.append(max(both, key=lambda one: np.inf if one.needed is None else one.needed))
    nothing = np.zeros(0, np.int64)
    for class_id in sorted(voted.keys() - set(orders.ids)):
        masks = len(voted[class_id].unseen) + voted[class_id].added - voted[class_id].removed
        if masks > 0:
            found.append(ClassPromise(class_id, orders.target, masks, False, 0, None, False, nothing))
    return found


def _promised(class_id: int, test: Test, within: int, rows: np.ndarray, price: float) -> ClassPromise:
    """The promise of a class of which the first `within` masks are delivered."""
    # Where nothing is promised over all, the smallest set is delivered.
    least = min((test.frozen.planned + 1) // 2, max(_LEAST_PART, int(test.frozen.sizes[0]) if within else 0))
    sizes = test.frozen.sizes[(test.frozen.sizes >= least) & (test.frozen.sizes <= within)]
    state = test.at(within)
    needed: int | None = 0
    masks = state.masks + state.added - state.removed
    if not len(sizes) or sizes[-1] != within:
        # A part that is none of the tested ones is certain once all is known of it.
        sizes = sizes[:0]
        needed = (state.unasked or None) if state.unasked or not _stands(test, state) else 0
    for size in sizes.tolist():
        now = test.at(size)
        if not _stands(test, now):
            needed = _needed(test, now, state)
            break
    worth = needed is not None and 0 < needed <= GIVE_UP - len(test.rows) and price * needed <= _correct(test, within)
    target = test.frozen.target
    return ClassPromise(class_id, target, masks, needed == 0, len(test.rows), needed, worth, rows[test.coming])


def _stands(test: Test, state: State) -> bool:
    """Whether a part is precise enough."""
    allowed = state.allowed(test.frozen.target)
    return allowed >= 0 and test.refuted(state, allowed + 1)


def _correct(test: Test, within: int) -> float:
    """How many masks of what is delivered are likely correct."""
    unasked = test.verdict[:within] < 0
    return float(
        test.frozen.chance[:within][unasked].sum() + (test.verdict == Verdict.YES).sum() + len(test.voted.unseen)
    )


def _needed(test: Test, tested: State, delivered: State) -> int | None:
    """About how many more draws from what is delivered have a part of it stand, at least 1; None where none would.

    It takes the wrong masks that are left for what draws and verifier say of them, and the normal bound on them that
    further draws would leave. The last mask being drawn, nothing is uncertain but what votes overlook.
    """
    if not tested.unasked:
        return None
    frozen, target = test.frozen, test.frozen.target
    draws = frozen.draws(tested.size, test.rows, test.wrong)
    left, spread, weight = _left(draws)
    done = np.arange(1, _STEPS + 1) / _STEPS  # of the masks without a verdict
    known = len(draws) + done * tested.unasked
    wide = np.sqrt(2 * test.limit * _SLOWER * spread / np.maximum(known, 1.0) * (1 - done)) * weight
    masks = tested.masks + tested.added - done * left
    slack = (1 - target) * masks - tested.passed - tested.removed - tested.added
    enough = np.flatnonzero((1 - done) * left + wide <= slack)
    return max(1, int(np.ceil(done[enough[0]] * delivered.unasked))) if len(enough) else None


def _left(draws: Draws) -> tuple[float, float, float]:
    """(wrong masks left, the mean of (wrong − expected)² / weight², weight left), by the draws and the verifier."""
    residual = (draws.wrong - draws.expected) / draws.weight
    weight = max(draws.total_weight - float(draws.weight.sum()), 0.0)
    known = len(draws) + _PRIOR
    drift = float(residual.sum()) / known
    spread = (float((residual**2).sum()) + _PRIOR * draws.spread) / known
    left = draws.total_expected - float(draws.expected.sum()) + drift * weight
    return max(left, 0.0), spread, weight
