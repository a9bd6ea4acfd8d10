"""The course of one round under the policy with a target, from the first fit to the promise, on answers that are given.

Whoever knows the answers can run it: the simulator, which knows the truth, and the forecast, which imagines it. Every
function is that of production: verifier, selection, frozen order, promise, eyes. All that people see is counted:
questions, gold, and the draws of the promise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from campaign.certification.classes import (
    CLASSES_SHARE,
    ClassOrders,
    ClassPromise,
    ClassTerms,
    Heldout,
    Passed,
    class_promises,
    passed_by_class,
)
from campaign.certification.passing import EYES_KNOWN, Passing, no_passing, passing
from campaign.certification.promise import Frozen, Promise, Test, Voted, freeze, promise
from campaign.certification.stopping import LEARNING_SHARE, OUTERMOST, is_worth_going_on
from campaign.quality.eyes import Eyes, fit_eyes
from campaign.quality.measures import GoldMask, draw_gold, is_near
from campaign.records.verdict import Verdict
from campaign.search.sampling import draw_keys
from campaign.search.selection import NONE, PER_IMAGE, PerClass, Selection, gains, most_wanted, price_now, select
from campaign.search.verifier import (
    Forest,
    Rows,
    Verifier,
    calibrate_on,
    grow,
    growth_milestone,
    known_masks,
    next_milestone,
)

PAGE = 15
OPENING = 30  # gold of a user who is not known yet
GOLD_SHARE = 0.1
MOST_GOLD = 2000


@dataclass(frozen=True)
class Terms:
    """What is asked for, and at which price.

    `target` precision at error probability `alpha`; `price` correct masks that a question must bring; `budget` of
    questions, None for no limit; `per_class` the precision of every class by itself, None for none.
    """

    target: float
    alpha: float
    price: float
    k_iou: float
    seed: int
    budget: int | None = None
    per_class: float | None = None

    @property
    def alpha_of_all(self) -> float:
        """The part of the error probability that is for all classes together as one set."""
        return self.alpha if self.per_class is None else self.alpha * (1 - CLASSES_SHARE)


@dataclass(frozen=True)
class Masks:
    """The n masks of a round with `pairs` of rivals (rows), and h held-out ones with their true IoU."""

    rows: Rows
    pairs: tuple[np.ndarray, np.ndarray]
    heldout: Rows
    heldout_iou: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)


class Gold:
    """Gold among the questions, drawn as it is in a campaign: `answer` (h,) and `user` (h,) of every held-out mask."""

    def __init__(self, masks: Masks, answer: np.ndarray, user: np.ndarray, k_iou: float, seed: int):
        iou, near = masks.heldout_iou, is_near(masks.heldout_iou, k_iou)
        self._iou, self._seed, self._k_iou, self._answer, self._user = iou, seed, k_iou, answer, user
        supply = [
            GoldMask(row, 0, Verdict.YES if value >= k_iou else Verdict.NO, value, int(image), bool(close))
            for row, (value, image, close) in enumerate(zip(iou.tolist(), masks.heldout.image, near, strict=True))
        ]
        self._opening = OPENING * len(np.unique(user))
        self._order = [m.mask_id for m in draw_gold(supply, {}, 0, min(len(supply), MOST_GOLD), seed, k_iou)]
        self.rows: list[int] = []
        self._eyes: Eyes | None = None

    @property
    def shown(self) -> int:
        """How many gold masks people saw."""
        return len(self.rows)

    def show(self, questions: int) -> None:
        """As much gold as goes with so many questions."""
        wanted = max(min(self._opening, questions), int(questions * GOLD_SHARE / (1 - GOLD_SHARE)))
        self.rows += self._order[len(self.rows) : wanted]

    def eyes(self) -> Eyes:
        """The eyes by the gold so far; while it has grown by less than a tenth, as they were."""
        if self._eyes is None or len(self.rows) >= 1.1 * self._eyes.answers:
            rows = np.array(self.rows, np.int64)
            self._eyes = fit_eyes(
                self._iou[rows], self._answer[rows] == Verdict.YES, self._user[rows].astype(str), self._k_iou,
                seed=self._seed,
            )  # fmt: skip
        return self._eyes


class Judge:
    """The verifier as answers come: grown on them too, again and again."""

    def __init__(self, masks: Masks, k_iou: float, seed: int):
        self._masks, self._truth, self._seed = masks, masks.heldout_iou >= k_iou, seed
        self._forest: Forest | None = None
        self._grown = 0
        self._of_forest: np.ndarray = np.zeros(0)
        self._unseen: np.ndarray | None = None
        self.heldout_unseen: np.ndarray = np.zeros(0)

    def fit(self, known: np.ndarray, yes: np.ndarray) -> tuple[Verifier, np.ndarray, np.ndarray]:
        """(verifier, its forest's chances of all masks (n,), those of the first fit, before any answer (n,)).

        By the answers on the rows `known` (a,), `yes` (a,); none the first time. `heldout_unseen` (h,) are what was
        said of the held-out masks then.
        """
        masks, answered = self._masks, self._masks.rows.select(known)
        if self._forest is None or growth_milestone(len(known)) > self._grown:
            self._grown = growth_milestone(len(known))
            self._forest = grow(masks.heldout, self._truth, answered, yes, self._seed)
            self._of_forest = self._forest.chances(masks.rows)
        rows, target, of_answers = known_masks(masks.heldout, self._truth, answered, yes)
        crossed = self._forest.crossed(rows, of_answers)
        verifier = calibrate_on(self._forest, crossed, rows.image, of_answers, target)
        if self._unseen is None:
            self._unseen, self.heldout_unseen = self._of_forest, verifier.heldout_chance
        return verifier, self._of_forest, self._unseen


class FirstJudge:
    """The verifier as answers come, calibrated on them alone: the forest stays that of the held-out masks.

    What it says of masks is worked out once, so any number of courses may be run with it, quickly.
    """

    def __init__(self, masks: Masks, k_iou: float, seed: int):
        nothing = np.zeros(0, np.int64)
        self._masks, self.truth = masks, masks.heldout_iou >= k_iou
        self._forest = grow(masks.heldout, self.truth, masks.rows.select(nothing), nothing.astype(bool), seed)
        self.of_forest = self._forest.chances(masks.rows)
        self.of_heldout = self._forest.crossed(masks.heldout, np.zeros(len(masks.heldout), bool))
        self.heldout_unseen = self.of_heldout
        self._crossed = self._forest.crossed(masks.rows, np.ones(len(masks), bool))

    def fit(self, known: np.ndarray, yes: np.ndarray) -> tuple[Verifier, np.ndarray, np.ndarray]:
        """As that of `Judge`."""
        masks, held = self._masks, len(self.of_heldout)
        chance = np.concatenate([self.of_heldout, self._crossed[known]])
        image = np.concatenate([masks.heldout.image, masks.rows.image[known]])
        target = np.concatenate([self.truth, np.asarray(yes, bool)])
        verifier = calibrate_on(self._forest, chance, image, np.arange(len(chance)) >= held, target)
        return verifier, self.of_forest, self.of_forest


@dataclass(frozen=True)
class Outcome:
    """What a course came to: `inside` (n,) bool are the masks delivered, `draws` the questions asked for `promise`.

    It is from the `frozen` order of the masks `rows` and those `voted` before. `classes` are the promises of each.
    """

    inside: np.ndarray
    promise: Promise
    draws: int
    frozen: Frozen
    rows: np.ndarray
    voted: Voted
    classes: list[ClassPromise]


class Course:
    """A round under way: `answer` (n,) int8 is what would be said of each mask. The same input gives the same course.

    After every fit `selection` holds what would be delivered as it stands.
    """

    def __init__(
        self,
        masks: Masks,
        answer: np.ndarray,
        terms: Terms,
        gold: Gold | None = None,
        judge: Judge | FirstJudge | None = None,
    ):
        self.masks, self.answer, self.terms, self.gold = masks, answer, terms, gold
        self.judge = judge or Judge(masks, terms.k_iou, terms.seed)
        self.verdict = np.full(len(masks), NONE, np.int8)
        self._passed: tuple[Eyes, Passing] | None = None
        self._by_class: Passed | None = None
        self.fit()

    @property
    def questions(self) -> int:
        """All that people saw so far."""
        return int((self.verdict != NONE).sum()) + (self.gold.shown if self.gold else 0)

    def fit(self) -> None:
        """Verifier, eyes and selection anew, from all answers."""
        known = np.flatnonzero(self.verdict != NONE)
        self.verifier, of_forest, self.unseen = self.judge.fit(known, self.verdict[known] == Verdict.YES)
        self.chance = self.verifier.chances(self.masks.rows, of_forest)
        if self.gold is not None:
            self.gold.show(len(known))
        self.passing = self._passing()
        self.choose()

    def choose(self) -> None:
        """The selection by the chances as they are."""
        known_eyes = self.gold is not None and self.gold.shown >= EYES_KNOWN
        planned = self.passing if known_eyes else no_passing()
        self.beliefs = planned.beliefs(self.chance, self.unseen)
        self.selection = self._selected(self.terms.target)
        self.note(np.concatenate([self.selection.unasked, self.selection.kept]))

    def _selected(self, target: float) -> Selection:
        """The selection for a target over all."""
        own = self.terms.per_class
        per_class = None if own is None else PerClass(self.masks.rows.class_id, own)
        return select(self.beliefs, self.verdict, self.masks.pairs, target, per_class)

    def note(self, inside: np.ndarray, draws: np.ndarray | None = None, bound: float | None = None) -> None:
        """Called with the rows that would be delivered whenever these are chosen, for whoever follows the course.

        Once an order is frozen, `draws` are the rows asked about from it, and `bound` is what is promised.
        """

    def ask(self, rows: np.ndarray) -> None:
        """Puts masks to the annotators."""
        self.verdict[rows] = self.answer[rows]
        if self.gold is not None:
            self.gold.show(int((self.verdict != NONE).sum()))

    def learn(self) -> None:
        """Asks where an answer changes what is delivered, until none is worth its price."""
        terms = self.terms
        while True:
            known = int((self.verdict != NONE).sum())
            gain, rows = gains(self.beliefs, self.selection, terms.target), self.selection.candidates
            price, most = price_now(terms.price, known, len(gain)), next_milestone(known) - known
            wanted = most_wanted(gain, rows, self.masks.rows.image, price, PER_IMAGE, most)
            if terms.budget is not None:
                wanted = wanted[: max(0, int(terms.budget * LEARNING_SHARE) - self.questions)]
            if not len(wanted):
                return
            self.ask(rows[wanted])
            self.fit()

    def _overlooked(self) -> float:
        """What votes are expected to overlook among the masks that would be delivered."""
        if self.gold is None or self.gold.shown < EYES_KNOWN:
            return 0.0
        unasked, kept = (self.passing.counts(self.unseen[r]) for r in (self.selection.unasked, self.selection.kept))
        return self.passing.mean(unasked, kept)

    def _missed(self) -> float:
        """The share of no among what annotators say of masks that are correct beyond doubt."""
        if self.gold is None or self.gold.shown < EYES_KNOWN:
            return 0.0
        return self.gold.eyes().crowd.miss_rate

    def certify(self) -> Outcome:
        """Freezes the order and asks for the promise, until that is not worth its price any more."""
        terms = self.terms
        outer = self._selected(terms.target - OUTERMOST)
        rows, kept = outer.unasked, self.selection.kept
        keys = draw_keys(terms.seed, 71, rows)
        frozen = freeze(
            self.beliefs.correct(rows), self.unseen[rows], keys, len(kept), terms.target,
            min(self.selection.size, len(rows)), overlooked=self._overlooked(), missed=self._missed(),
        )  # fmt: skip
        voted, orders = Voted(self.unseen[kept]), self._class_orders(frozen, rows, kept)
        start = self.questions
        while True:
            self.passing = self._passing()
            now = promise(frozen, self.verdict[rows], voted, self.passing, terms.alpha_of_all)
            classes = self._class_promises(orders, rows, kept, now.size)
            inside = self._delivered(rows, kept, now)
            self.note(np.flatnonzero(inside), rows[frozen.order[: now.draws]], now.bound)
            if terms.budget is not None and self.questions >= terms.budget:
                break
            if is_worth_going_on(frozen, self.verdict[rows], voted, self.passing, terms.alpha_of_all, terms.price, now):
                self.ask(rows[frozen.order[now.draws : now.draws + max(4 * PAGE, now.draws // 10)]])
            elif any(one.worth for one in classes):
                self.ask(rows[_next_of_classes(classes, self.verdict[rows])])
            else:
                break
        return Outcome(inside, now, self.questions - start, frozen, rows, voted, classes)

    def _delivered(self, rows: np.ndarray, kept: np.ndarray, now: Promise) -> np.ndarray:
        """What is delivered by a promise from the frozen masks `rows`, and those `kept` before, (n,) bool."""
        inside = np.zeros(len(self.masks), bool)
        delivered = rows[: now.size]
        inside[delivered[~np.isin(self.verdict[delivered], (Verdict.NO, Verdict.UNSURE))]] = True
        inside[rows[self.verdict[rows] == Verdict.YES]] = True
        inside[kept] = True
        return inside

    def _class_orders(self, frozen: Frozen, rows: np.ndarray, kept: np.ndarray) -> ClassOrders | None:
        """What is frozen of each class; None where none has a target of its own."""
        if self.terms.per_class is None:
            return None
        of_rows, of_kept = self.masks.rows.class_id[rows], self.masks.rows.class_id[kept]
        ids, voted = np.unique(np.concatenate([of_rows, of_kept])), np.unique(of_kept, return_counts=True)
        return ClassOrders(
            frozen, of_rows, self.terms.per_class, tuple(ids.tolist()),
            dict(zip(*(column.tolist() for column in voted), strict=True)),
        )  # fmt: skip

    def _class_promises(
        self, orders: ClassOrders | None, rows: np.ndarray, kept: np.ndarray, size: int
    ) -> list[ClassPromise]:
        if orders is None:
            return []
        of_kept = self.masks.rows.class_id[kept]
        voted = {c: Voted(self.unseen[kept[of_kept == c]]) for c in orders.voted}
        terms = ClassTerms(self.terms.alpha * CLASSES_SHARE, self.terms.price)
        return class_promises(orders, self.verdict[rows], voted, self._passed_by_class(), terms, size)

    def _passed_by_class(self) -> Passed:
        if self._passed is None:
            return Passed(self.passing, {})
        eyes, masks, terms = self._passed[0], self.masks, self.terms
        if self._by_class is None or self._by_class.all_classes is not self.passing:
            held = Heldout(masks.heldout.class_id, masks.heldout_iou, self.judge.heldout_unseen, masks.heldout.image)
            self._by_class = passed_by_class(eyes, self.passing, held, terms.k_iou, terms.seed)
        return self._by_class

    def bound_at(self, end: Outcome, alpha: float) -> float:
        """The precision that is certain of what is delivered in the end at another error probability."""
        test = Test(end.frozen, self.verdict[end.rows], end.voted, self.passing, alpha)
        return test.promised(test.at(end.promise.size)).bound

    def _passing(self) -> Passing:
        """What annotators pass by the eyes as they are; worked out again only where these are others."""
        if self.gold is None:
            return no_passing()
        masks, eyes, terms = self.masks, self.gold.eyes(), self.terms
        if self._passed is None or self._passed[0] is not eyes:
            unseen = self.judge.heldout_unseen
            found = passing(eyes, masks.heldout_iou, unseen, masks.heldout.image, terms.k_iou, terms.seed)
            self._passed = eyes, found
        return self._passed[1]


def _next_of_classes(classes: list[ClassPromise], verdict: np.ndarray) -> np.ndarray:
    """The next draws of the classes that are worth going on with, some pages of each."""
    parts = [one.due(verdict)[: max(4 * PAGE, one.draws // 10)] for one in classes if one.worth]
    return np.concatenate(parts)
