"""The masks of a round that would be delivered for the target, and those that are worth a question.

The verifier is fitted anew at milestones of how many verdicts of the round count: the first so many of them, in the
order in which they came, so that the same facts give the same verifier, whatever happened in between.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, Protocol, cast

import numpy as np

from campaign.certification import classes
from campaign.certification.classes import Passed
from campaign.certification.expectation import like_pool
from campaign.certification.passing import EYES_KNOWN, Passing, no_passing, passing
from campaign.dataset.propagation import nearest_decided
from campaign.derived.answered import answered
from campaign.derived.classes import target_per_class
from campaign.derived.columns import Columns, round_columns
from campaign.derived.eyes import campaign_eyes
from campaign.derived.forests import said, said_unseen
from campaign.derived.live import steady
from campaign.derived.outlook import waiting
from campaign.quality.eyes import Eyes
from campaign.records.decision import Kind
from campaign.records.verdict import Verdict
from campaign.search.sampling import draw_keys
from campaign.search.selection import (
    FIRST_QUESTIONS,
    NONE,
    PER_IMAGE,
    Beliefs,
    Selection,
    first_questions,
    gains,
    most_wanted,
    price_now,
    select,
)
from campaign.search.stock import AHEAD_SHARE
from campaign.search.verifier import Forest, Rows, calibrate, milestone
from campaign.store import Store
from campaign.store import models as m

FORM = 1  # of snapshots; another form is worked out anew
KNOWN = 30  # held-out masks without which the first questions are drawn by chance


@dataclass(frozen=True)
class RoundSelection:
    """A round's n masks as they stand. All columns are (n,), by mask id.

    `chance` of a yes by the verifier; `unseen` is its chance before any answer. `verdict` by the answers of the round's
    own pages, `NONE` without one; `asked`: on a page. `accepted` and `rejected` by the lead; `rejected` are also those
    of a class that waits for the lead. What annotators pass of masks is looked up by `unseen`, for the `heldout_chance`
    (h,) of held-out masks, whose `heldout_iou` is known, is of that kind; `heldout_class` is their class, and
    `heldout_now` their chance by all answers.
    """

    columns: Columns
    chance: np.ndarray
    unseen: np.ndarray
    verdict: np.ndarray
    asked: np.ndarray
    accepted: np.ndarray
    rejected: np.ndarray
    beliefs: Beliefs
    selection: Selection
    target: float
    heldout_iou: np.ndarray
    heldout_chance: np.ndarray
    heldout_image: np.ndarray
    heldout_class: np.ndarray
    seed: int
    heldout_now: np.ndarray

    @property
    def delivered(self) -> np.ndarray:
        """The rows that would be delivered as it stands, rising."""
        chosen = self.accepted & np.isin(self.verdict, (NONE, Verdict.YES))
        chosen[self.selection.unasked] = chosen[self.selection.kept] = True
        return np.flatnonzero(chosen)

    @cached_property
    def _asked(self) -> int:
        return int(self.asked.sum())

    @cached_property
    def _gain(self) -> np.ndarray:
        """What a question about each candidate is expected to bring; minus infinity where it was asked."""
        gain = gains(self.beliefs, self.selection, self.target)
        gain[self.asked[self.selection.candidates]] = -np.inf
        return gain

    def wanted(self, price: float, ahead: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """(rows, gains) of the masks that are worth a question at that price, the best first; none was asked about.

        After them come up to `ahead` masks that bring less, but a share of the price, `AHEAD_SHARE`. Where next to
        nothing is held out, nothing is known until some masks were asked about; they are drawn by chance.
        """
        missing = FIRST_QUESTIONS - self._asked
        if len(self.heldout_iou) < KNOWN and missing > 0:
            free = self._gain > -np.inf
            rows = self.selection.candidates[free]
            keys = draw_keys(self.seed, 71, self.columns.mask_id[rows])
            order = np.argsort(keys, kind="stable")[:missing]
            return rows[order], self._gain[free][order]
        gain, of = self._gain, (self.selection.candidates, self.columns.image)
        order = most_wanted(gain, *of, price, PER_IMAGE)
        if price_now(price, self._asked, len(gain)) < price:
            first = most_wanted(gain, *of, 0.0, PER_IMAGE, first_questions(len(gain)) - self._asked)
            order = np.concatenate([first, order[~np.isin(order, first)]])
            gain = gain.copy()
            gain[first] = np.maximum(gain[first], price)  # not to be asked ahead
        if ahead > 0:
            less = most_wanted(np.where(gain < price, gain, -np.inf), *of, AHEAD_SHARE * price, PER_IMAGE, ahead)
            order = np.concatenate([order, less])
        return self.selection.candidates[order], self._gain[order]


@dataclass(frozen=True)
class Fit:
    """The verifier's chances of a round's masks (n,) and held-out masks (h,), and what they follow from.

    `heldout_chance` is before any answer, `heldout_now` by the answers that `chance` rests on.
    """

    version: str
    chance: np.ndarray
    unseen: np.ndarray
    heldout_iou: np.ndarray
    heldout_chance: np.ndarray
    heldout_image: np.ndarray
    heldout_class: np.ndarray
    heldout_now: np.ndarray = field(default_factory=lambda: np.zeros(0))


class _Known:
    """What was worked out in this process, by round."""

    def __init__(self) -> None:
        self.fits: dict[int, Fit] = {}
        self.selections: dict[int, tuple[tuple, Eyes, RoundSelection]] = {}
        self.passing: list[tuple[Eyes, np.ndarray, Passing]] = []  # of the newest eyes: a fit's, and a promise's
        self.by_class: Passed | None = None


def round_selection(store: Store, round_number: int) -> RoundSelection:
    """The masks of a round as they stand. Without trees, it has no masks."""
    return steady(store, lambda: _round_selection(store, round_number))


def _round_selection(store: Store, round_number: int) -> RoundSelection:
    known: _Known = store.companions.setdefault(_Known, _Known())
    view, columns = answered(store), round_columns(store).of_round(round_number)
    eyes, orders, settings = campaign_eyes(store), _orders(store, round_number), store.settings.search
    verdict, asked = view.over(columns.mask_id, "own"), np.zeros(len(columns), bool)
    asked[columns.rows_of(view.rows["mask"][view.rows["round"] == round_number])] = True
    fit = _fitted(store, round_number, columns, verdict)
    stands = hashlib.blake2b(verdict.data)
    stands.update(asked.data)
    waits = waiting(store, round_number)
    targets = settings.precision, settings.precision_per_class
    mark = fit.version, stands.digest(), orders, targets, settings.confidence, tuple(sorted(waits))
    before = known.selections.get(round_number)
    if before is not None and before[0] == mark and before[1] is eyes:
        return before[2]
    accepted, rejected = _ordered(store, round_number, columns, orders)
    if waits:
        rejected |= np.isin(columns.class_id, list(waits)) & ~accepted
    gone = verdict.copy()
    gone[_out_of_the_way(columns, accepted, rejected, verdict)] = Verdict.NO
    beliefs = planning_beliefs(store, fit, eyes)
    per_class = target_per_class(store, columns.class_id)
    chosen = select(beliefs, gone, columns.pairs, settings.precision, per_class)
    found = RoundSelection(
        columns, fit.chance, fit.unseen, verdict, asked, accepted, rejected, beliefs, chosen, settings.precision,
        fit.heldout_iou, fit.heldout_chance, fit.heldout_image, fit.heldout_class, store.settings.seed,
        fit.heldout_now,
    )  # fmt: skip
    known.selections[round_number] = mark, eyes, found
    return found


def planning_beliefs(store: Store, fit: Fit, eyes: Eyes) -> Beliefs:
    """What is believed of masks where it is planned what to ask and deliver."""
    passed = shared_passing(store, fit, eyes) if eyes.answers >= EYES_KNOWN else no_passing()
    return passed.beliefs(fit.chance, fit.unseen)


class Heldout(Protocol):
    """Held-out masks as a verifier saw them, (h,) each."""

    @property
    def heldout_iou(self) -> np.ndarray:
        """True IoUs."""

    @property
    def heldout_chance(self) -> np.ndarray:
        """The verifier's cross-fitted chances."""

    @property
    def heldout_image(self) -> np.ndarray:
        """Images."""

    @property
    def heldout_class(self) -> np.ndarray | None:
        """Classes, None where that was not kept."""


def shared_passing(store: Store, fit: Heldout, eyes: Eyes) -> Passing:
    """What annotators pass of masks like these; worked out once while eyes and masks stay the same."""
    known: _Known = store.companions.setdefault(_Known, _Known())
    kept = [one for one in known.passing if one[0] is eyes]
    found = next((p for _, chance, p in kept if chance is fit.heldout_chance), None)
    if found is None:
        columns = fit.heldout_iou, fit.heldout_chance, fit.heldout_image
        k_iou = store.settings.search.k_iou
        found = passing(eyes, *columns, k_iou, store.settings.seed) if len(fit.heldout_iou) else no_passing()
        known.passing = [*kept, (eyes, fit.heldout_chance, found)]
    return found


def passed_by_class(store: Store, fit: Heldout, eyes: Eyes) -> Passed:
    """The same of each class by itself; worked out once while eyes and masks stay the same."""
    known: _Known = store.companions.setdefault(_Known, _Known())
    shared, settings = shared_passing(store, fit, eyes), store.settings
    if known.by_class is None or known.by_class.all_classes is not shared:
        known.by_class = Passed(shared, {})
        if fit.heldout_class is not None:
            held = classes.Heldout(fit.heldout_class, fit.heldout_iou, fit.heldout_chance, fit.heldout_image)
            known.by_class = classes.passed_by_class(eyes, shared, held, settings.search.k_iou, settings.seed)
    return known.by_class


def _fitted(store: Store, round_number: int, columns: Columns, verdict: np.ndarray) -> Fit:
    """The verifier's chances, fitted where no snapshot holds them."""
    known: _Known = store.companions.setdefault(_Known, _Known())
    in_order = _in_order(store, columns, verdict)
    rows = in_order = in_order[: milestone(len(in_order))]
    k_iou, seed = store.settings.search.k_iou, store.settings.seed
    told = hashlib.blake2b(repr((FORM, columns.version, k_iou, seed)).encode(), digest_size=16)
    told.update(rows.tobytes() + verdict[rows].tobytes())
    version = told.hexdigest()
    if round_number in known.fits and known.fits[round_number].version == version:
        return known.fits[round_number]

    fit = known.fits[round_number] = _kept_fit(store, round_number, columns, version, rows, verdict)
    return fit


def _kept_fit(
    store: Store, round_number: int, columns: Columns, version: str, rows: np.ndarray, verdict: np.ndarray
) -> Fit:
    """The verifier by these verdicts, whose chances are kept: they stay the same for many turns."""
    name, mapped = f"fit/{round_number}", ("chance",)
    kept = store.views.kept(name, version, mapped=mapped)
    if kept is None:
        fit = _calibrated(store, round_number, columns, version, rows, verdict)
        if not len(rows):  # what was said unseen, which is kept already
            return fit
        store.views.keep(name, version, {"chance": fit.chance, "heldout_now": fit.heldout_now})
        kept = store.views.kept(name, version, mapped=mapped)
        if kept is None:  # another process has kept a newer one
            return fit
    unseen = said_unseen(store, round_number, columns)
    held = unseen.heldout_iou, unseen.heldout, unseen.heldout_image, unseen.heldout_class
    return Fit(version, kept["chance"], unseen.pool, *held, kept["heldout_now"])


def _in_order(store: Store, columns: Columns, verdict: np.ndarray) -> np.ndarray:
    """The rows that have a verdict, in the order in which these came."""
    rows = np.flatnonzero(verdict != NONE)
    return rows[np.lexsort((rows, answered(store).of(columns.mask_id[rows], "fact", 0)))]


def _calibrated(
    store: Store, round_number: int, columns: Columns, version: str, rows: np.ndarray, verdict: np.ndarray
) -> Fit:
    """The verifier by these verdicts, in the order in which they came; its trees are grown on the first of them."""
    unseen = said_unseen(store, round_number, columns)
    held = unseen.heldout_iou, unseen.heldout, unseen.heldout_image, unseen.heldout_class
    if not len(rows):
        return Fit(version, unseen.pool, unseen.pool, *held, unseen.heldout)
    trees = said(store, round_number, columns, rows, verdict)
    pool, heldout = _seen(columns.class_id, columns.image), _seen(unseen.heldout_class, unseen.heldout_image)
    forest = cast(Forest, _Crossed(trees.heldout, trees.crossed))
    correct = unseen.heldout_iou >= store.settings.search.k_iou
    verifier = calibrate(forest, heldout, correct, pool.select(rows), verdict[rows] == Verdict.YES)
    now = like_pool(trees.heldout, correct, verifier.calibration)
    return Fit(version, verifier.chances(pool, trees.pool), unseen.pool, *held, now)


class _Crossed(NamedTuple):
    """What is known of a forest where it need not be asked: its word on held-out masks and on answered ones."""

    heldout: np.ndarray
    answered: np.ndarray

    def crossed(self, _rows: Rows, _of_answers: np.ndarray) -> np.ndarray:
        """Its word by trees that saw nothing of the masks' images, held-out ones first."""
        return np.concatenate([self.heldout, self.answered])


def _seen(class_id: np.ndarray, image: np.ndarray) -> Rows:
    """Masks without what trees see of them."""
    return Rows(np.zeros((len(image), 0), np.float32), class_id, image)


# Orders of the lead


def lead_orders(store: Store, round_number: int) -> tuple[np.ndarray, np.ndarray]:
    """The masks of a round in clusters that the lead accepted, and in those that the lead rejected: mask ids."""

    def work() -> tuple[np.ndarray, np.ndarray]:
        orders = _orders(store, round_number)
        if not orders:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        columns = round_columns(store).of_round(round_number)
        accepted, rejected = _ordered(store, round_number, columns, orders)
        return columns.mask_id[accepted], columns.mask_id[rejected]

    return steady(store, work)


def _orders(store: Store, round_number: int) -> tuple[tuple[int, int, str], ...]:
    """(class, cluster, kind) of the orders that stand in a round."""
    newest: dict[tuple[int, int], str | None] = {}
    for row in store.overrides.rows():
        if row.round == round_number:
            newest[row.class_id, row.cluster] = row.kind
    return tuple(sorted((*place, kind) for place, kind in newest.items() if kind in (Kind.ACCEPT, Kind.REJECT)))


def _ordered(
    store: Store, round_number: int, columns: Columns, orders: tuple[tuple[int, int, str], ...]
) -> tuple[np.ndarray, np.ndarray]:
    """The masks in clusters that the lead accepted and rejected, (n,) bool each; of nested ones the smallest counts."""
    accepted, rejected = np.zeros(len(columns), bool), np.zeros(len(columns), bool)
    for class_id in sorted({c for c, _, _ in orders}):
        tree, ids = store.trees.read(round_number, class_id)
        own = [m.Decision(cluster=cluster, kind=kind) for c, cluster, kind in orders if c == class_id]
        nearest = nearest_decided(tree.parent, tree.n, own)
        for kind, marked in ((Kind.ACCEPT, accepted), (Kind.REJECT, rejected)):
            clusters = [d.cluster for d in own if d.kind == kind]
            marked[columns.rows_of(np.asarray(ids)[np.isin(nearest, clusters)])] = True
    return accepted, rejected


def _out_of_the_way(columns: Columns, accepted: np.ndarray, rejected: np.ndarray, verdict: np.ndarray) -> np.ndarray:
    """Masks that are no candidates because of the lead's orders: they go by them, and so do rivals of accepted ones."""
    if not accepted.any() and not rejected.any():
        return np.zeros(len(columns), bool)
    ordered = (accepted | rejected) & (verdict == NONE)
    a, b = columns.pairs
    beside = np.zeros(len(columns), bool)
    beside[b[accepted[a]]] = beside[a[accepted[b]]] = True
    return ordered | (beside & (verdict == NONE))


def last_fit(store: Store, round_number: int) -> Fit:
    """The verifier's chances by all verdicts of a round, rather than those up to a milestone."""
    columns = round_columns(store).of_round(round_number)
    verdict = answered(store).over(columns.mask_id, "own")
    return _calibrated(store, round_number, columns, "", _in_order(store, columns, verdict), verdict)


def chances_of(store: Store, mask_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(chances, chances before any answer) of predictions of any rounds, by their rounds' verifiers; 0 of others."""
    chance, unseen = np.zeros(len(mask_ids)), np.zeros(len(mask_ids))
    for row in store.rounds.all() if len(mask_ids) else ():
        columns = round_columns(store).of_round(row.number)
        here = np.isin(mask_ids, columns.mask_id)
        if here.any():
            chosen = round_selection(store, row.number)
            place = np.searchsorted(columns.mask_id, mask_ids[here])
            chance[here], unseen[here] = chosen.chance[place], chosen.unseen[place]
    return chance, unseen
