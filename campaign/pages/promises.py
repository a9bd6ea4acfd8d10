"""Promises of precision: masks are frozen in an order, and drawn from it as ordinary questions.

What was frozen is stored before anybody is asked, like an audit, and never rewritten: a promise is valid because
nobody could choose its masks or its order by the answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from campaign.certification.passing import EYES_KNOWN
from campaign.certification.promise import share_of
from campaign.certification.stopping import OUTERMOST
from campaign.dataset.propagation import drop_duplicates
from campaign.derived.answered import answered
from campaign.derived.classes import classes_of, frozen_classes, target_per_class
from campaign.derived.columns import column_of
from campaign.derived.dataset import chosen_masks
from campaign.derived.eyes import campaign_eyes
from campaign.derived.promises import Attempt, Standing, attempt_path, newest_attempt, standing
from campaign.derived.selection import (
    Fit,
    Heldout,
    chances_of,
    last_fit,
    lead_orders,
    planning_beliefs,
    round_selection,
    shared_passing,
)
from campaign.derived.spending import affordable
from campaign.pages.gold import GoldPlan
from campaign.pages.sheets import sheet
from campaign.records.page import NewPage
from campaign.records.verdict import Verdict
from campaign.search.rivals import without_rivals
from campaign.search.selection import NONE, select
from campaign.store import Store
from campaign.store.values import Key
from ml_backend.errors import InputError
from ml_backend.mask_ids import is_drawn, round_of

AGAIN_PAGES = 20  # that a promise made again asks at a time


def begin_promise(store: Store, round_number: int) -> Attempt:
    """Freezes the order of the masks without a verdict that may be delivered, this round's and those of earlier ones.

    To be called under the campaign's lock. A promise that was begun is returned as it is.
    """
    known = newest_attempt(store)
    if known is not None:
        return known
    ids, pairs, fit, ordered = _universe(store, round_number)
    verdict, settings = answered(store).of(ids, "verdict"), store.settings.search
    asked = np.isin(ids, answered(store).rows["mask"])
    # Nobody asks again about the pages of earlier rounds, and a draw without an answer holds up all that come after it.
    stale = asked & (answered(store).of(ids, "round", 0) != round_number)
    settled = np.where((ordered | stale) & (verdict == NONE), Verdict.NO, verdict)
    beliefs = planning_beliefs(store, fit, campaign_eyes(store))
    per_class = target_per_class(store, classes_of(store, ids))
    planned = select(beliefs, settled, pairs, settings.precision, per_class)
    outer = select(beliefs, settled, pairs, settings.precision - OUTERMOST, per_class)
    correct = beliefs.correct()
    stay = _without_duplicates(store, ids, correct, outer.unasked, planned.kept)
    rows, voted = outer.unasked[stay[outer.unasked]], planned.kept[stay[planned.kept]]
    stays = np.zeros(len(ids), bool)
    stays[rows] = stays[voted] = True
    others = _others(stays, asked, correct, pairs)
    # Whose yes is worth too little is settled now: what gold says later must not let masks come and go.
    others &= planned.delivers(beliefs.right())
    others[rows] = False
    facts = {
        "target": settings.precision, "confidence": settings.confidence, "cut": planned.cut,
        "planned": int(np.isin(planned.unasked, rows).sum()), "voted": len(voted), "least": 0,
        "overlooked": _overlooked(store, fit, fit.unseen[planned.unasked], fit.unseen[planned.kept]),
        "missed": _missed(store),
    }  # fmt: skip
    frozen, seen = (_Masks(ids[r], correct[r], fit.unseen[r]) for r in (rows, np.flatnonzero(others)))
    return _freeze(store, (1, round_number), frozen, seen, ids[voted], fit, facts)


_NONE = np.zeros(0, np.int64)


def _overlooked(store: Store, known: Heldout, unasked: np.ndarray, voted: np.ndarray) -> float:
    """What votes are expected to overlook among masks with these chances before any answer, as far as gold says."""
    eyes = campaign_eyes(store)
    if eyes.answers < EYES_KNOWN:
        return 0.0
    passed = shared_passing(store, known, eyes)
    return passed.mean(passed.counts(unasked), passed.counts(voted))


def _missed(store: Store) -> float:
    """The share of no among what annotators say of masks that are correct beyond doubt, as far as gold says."""
    eyes = campaign_eyes(store)
    return eyes.crowd.miss_rate if eyes.answers >= EYES_KNOWN else 0.0


class _Masks(NamedTuple):
    """Masks with their chances: mask ids (n,), with all answers and before any."""

    mask_id: np.ndarray
    chance: np.ndarray
    unseen: np.ndarray

    def select(self, index: np.ndarray) -> _Masks:
        """The masks that a NumPy index picks."""
        return _Masks(*(column[index] for column in self))

    def beside(self, more: _Masks) -> _Masks:
        """These masks, then the others."""
        return _Masks(*(np.concatenate(columns) for columns in zip(self, more, strict=True)))


def begin_again(store: Store, last: Standing) -> Attempt:
    """Freezes what is delivered without a verdict once more, for a promise of the set as it is now.

    Masks that the lead brought in are the first ones, in every set. Raises InputError where nothing is left to draw.
    """
    old = last.attempt
    verdict = answered(store).of(old.mask_id, "verdict")
    rejected = [lead_orders(store, r.number)[1] for r in store.rounds.all()]
    elsewhere = np.isin(old.mask_id, np.concatenate([*rejected, last.brought]))
    left, gone = np.flatnonzero((verdict == NONE) & ~elsewhere), np.flatnonzero(verdict != NONE)
    if not len(left) and not len(last.brought):
        raise InputError("promise", "masks that nobody was asked about", "none")
    order = _Masks(old.mask_id, old.frozen.chance, old.frozen.unseen)
    brought = _Masks(last.brought, *chances_of(store, last.brought))
    seen = _Masks(old.other_id, old.other_chance, old.other_unseen).beside(order.select(gone))
    seen = seen.select(np.flatnonzero(~np.isin(seen.mask_id, last.brought)))
    seen = seen.select(np.argsort(seen.mask_id, kind="stable"))
    facts = {
        "target": store.settings.search.precision, "confidence": store.settings.search.confidence, "cut": old.cut,
        "planned": len(last.brought) + int((left < max(last.promise.size, 1)).sum()), "voted": int(last.voted.sum()),
        "least": len(last.brought),
        "overlooked": _overlooked(store, old, order.unseen[left], old.other_unseen[_NONE]),
        "missed": _missed(store),
    }  # fmt: skip
    frozen = brought.beside(order.select(left))
    return _freeze(store, (old.number + 1, old.round_number), frozen, seen, last.mask_id[last.voted], old, facts)


def _freeze(
    store: Store,
    place: tuple[int, int],
    frozen: _Masks,
    seen: _Masks,
    kept: np.ndarray,
    known: Heldout,
    facts: dict[str, Any],
) -> Attempt:
    """Stores an attempt, of a number and a round: what is frozen, and `kept`, by mask id, that was voted yes before."""
    number, round_number = place
    path = attempt_path(store, number)
    classes, own_facts = frozen_classes(store, frozen.mask_id, seen.mask_id, kept, known.heldout_class)
    arrays = {
        **frozen._asdict(), "other_id": seen.mask_id, "other_chance": seen.chance, "other_unseen": seen.unseen,
        "heldout_iou": known.heldout_iou, "heldout_chance": known.heldout_chance, "heldout_image": known.heldout_image,
        **classes,
    }  # fmt: skip
    store.files.write(path, lambda partial: np.savez(partial, **arrays))  # type: ignore[arg-type]
    store.values.set(Key.PROMISE, {"attempt": number, "round": round_number, **facts, **own_facts})
    share = share_of(number, 1 - facts["confidence"])
    store.log(
        f"promise {number}: {len(frozen.mask_id)} masks that nobody was asked about are frozen in their order, and "
        f"drawn by chance from now on; {facts['planned']} of them are likely to be delivered; "
        f"error probability {share:.3g}"
    )
    attempt = newest_attempt(store)
    assert attempt is not None
    return attempt


def _universe(store: Store, round_number: int) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray], Fit, np.ndarray]:
    """This round's masks and those that earlier rounds brought, all by mask id.

    (mask ids, pairs of rivals, the verifier on them, which ones go by an order of the lead.)
    """
    chosen, fit = round_selection(store, round_number), last_fit(store, round_number)
    ids = [columns["mask_id"] for columns in store.datasets.columns(["mask_id"], before=round_number)]
    before = np.sort(np.concatenate([np.zeros(0, np.int64), *ids]))
    before = before[~is_drawn(before)]
    known: list[Heldout] = [fit]
    known += [round_selection(store, n) for n in np.unique(round_of(before)).tolist()] if len(before) else []
    own = np.concatenate([fit.chance, fit.unseen]).reshape(2, -1)
    chance, unseen = np.concatenate([np.stack(chances_of(store, before)), own], axis=1)
    names = ("iou", "chance", "image", "class")
    shared = Fit("", chance, unseen, *(np.concatenate([getattr(k, f"heldout_{n}") for k in known]) for n in names))
    ordered = np.concatenate([np.zeros(len(before), bool), chosen.accepted | chosen.rejected])
    # Ids of earlier rounds are smaller, so that all are rising.
    first, second = (rows + len(before) for rows in chosen.columns.pairs)
    return np.concatenate([before, chosen.columns.mask_id]), (first, second), shared, ordered


def _others(
    stays: np.ndarray, asked: np.ndarray, chance: np.ndarray, pairs: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Masks that are delivered if they are voted yes, now or later, (n,) bool.

    Those of the set (`stays`) that people were asked about, and others of those that show what none of the set shows.
    """
    a, b = pairs
    beside = np.zeros(len(stays), bool)
    beside[b[stays[a]]] = beside[a[stays[b]]] = True
    may = asked & ~stays & ~beside
    return (stays & asked) | (may & without_rivals(chance, pairs, ~may))


def _without_duplicates(
    store: Store, ids: np.ndarray, chance: np.ndarray, unasked: np.ndarray, yes: np.ndarray
) -> np.ndarray:
    """Which of these rows stay where duplicates are dropped, (n,) bool over all rows."""
    rows = np.sort(np.concatenate([unasked, yes]))
    masks = chosen_masks(store, ids[rows], np.isin(rows, yes), chance[rows])
    left = drop_duplicates(masks, store.settings.rounds.dedupe_iou).mask_id
    kept = np.zeros(len(ids), bool)
    kept[rows] = np.isin(ids[rows], left)
    return kept


def waiting_draws(store: Store, now: Standing) -> np.ndarray:
    """The masks that are drawn next and on no page yet, in their order: for classes, where that alone is left."""
    drawn = now.due if len(now.due) else now.attempt.drawn
    return drawn[~np.isin(drawn, answered(store).rows["mask"])]


def draw_pages(store: Store, need: int) -> Iterator[NewPage]:
    """Pages of the masks that are drawn next.

    Draws count up to the first one without an answer, so a page is filled from the draws that come next: a class
    whose draws fill a page leaves the rest to the next turn, where they are the first.
    """
    attempt, left = newest_attempt(store), affordable(store)
    if attempt is None:
        return
    now = standing(store)
    if now is None or now.stop is not None:
        return
    waiting, size = waiting_draws(store, now), store.settings.page.page_size
    class_of = column_of(store, waiting[: size * max(need, 1)], "class_id")
    several = len(np.unique(class_of)) > 1
    count = size * max(need, len(store.classes()) if several else 1)
    waiting = waiting[: count if left is None else min(count, left)]
    classes, gold = column_of(store, waiting, "class_id"), GoldPlan(store)
    is_last = len(waiting) < count
    for class_id in sorted(set(classes.tolist())):
        own, first = waiting[classes == class_id].tolist(), True
        while own:
            quota = gold.quota(size, class_id)
            if not first and not is_last and len(own) < size - quota:
                break
            hidden = gold.take(class_id, min(quota, len(own)))
            places = max(1, size - len(hidden))
            place = attempt.round_number, class_id
            yield from sheet(store, place, [(mask, None) for mask in own[:places]], hidden, attempt.kind)
            own, first = own[places:], False


def open_draws(store: Store) -> tuple[int, int]:
    """(draws on pages without a verdict, draws on pages) of the newest promise."""
    attempt = newest_attempt(store)
    if attempt is None:
        return 0, 0
    rows = answered(store).rows
    of_attempt = rows[np.isin(rows["mask"], attempt.mask_id)]
    return int((of_attempt["verdict"] == NONE).sum()), len(of_attempt)


def go_on_promising(store: Store) -> int:
    """Draws more masks where the promise of a campaign that has ended does not stand; returns how many are open.

    As long as the newest attempt is worth going on with it goes on, and then another one is begun. A promise that
    stands, that of each class too or no draws for it worth their price, is left as it is; and so is a campaign that has
    promised nothing yet: its rounds see to that.
    """
    with store.locked():
        now = standing(store)
        if now is None or (now.promise.met and not len(now.due)):
            return 0
        waiting, _ = open_draws(store)
        if waiting:
            return waiting
        if now.stop is not None:
            if affordable(store) == 0:
                return 0  # an attempt that cannot be asked for would only take the place of this one
            if not len(now.brought) and not (answered(store).of(now.attempt.mask_id, "verdict") == NONE).any():
                return 0  # everything was asked about: no more can be said
            begin_again(store, now)
        store.pages.add(list(draw_pages(store, AGAIN_PAGES)))
        return open_draws(store)[0]
