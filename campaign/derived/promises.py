"""The promise of precision as it stands: the frozen order of masks, the answers on its draws, and the set it speaks of.

What was frozen is a fact; everything here follows from it, from the answers that count, from corrections and from the
orders of the lead. The set is exactly this: the first masks of the frozen order, as far as the promise reaches, less
those voted down; all others voted yes that are likely enough correct then; and what corrections and the lead's orders
bring in, as far as it shows something new.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from campaign.certification.classes import CLASSES_SHARE, ClassOrders, ClassPromise, ClassTerms, class_promises
from campaign.certification.promise import (
    Frozen,
    Promise,
    Voted,
    digest_of,
    freeze,
    promise,
    share_of,
)
from campaign.certification.stopping import is_worth_going_on
from campaign.dataset.propagation import drop_known
from campaign.derived import classes as of_classes
from campaign.derived.answered import answered
from campaign.derived.columns import column_of
from campaign.derived.corrections import counted_corrections
from campaign.derived.eyes import campaign_eyes
from campaign.derived.selection import lead_orders, passed_by_class, shared_passing
from campaign.derived.spending import affordable
from campaign.records.page import promise_kind
from campaign.records.verdict import Verdict
from campaign.search.rivals import COVERED, overlaps_of, without_rivals
from campaign.search.sampling import draw_keys
from campaign.search.selection import NONE
from campaign.store import Store
from campaign.store.drawings import CORRECTED, NOTHING
from campaign.store.values import Key
from ml_backend.mask_ids import drawn_id, is_drawn

_SALT = 90  # of the draws' keys; every attempt has its own


@dataclass(frozen=True)
class Attempt:
    """One frozen order of n masks, `mask_id` (n,), in a round; see `Frozen`.

    `other_id` (m,), rising, are masks outside of it that are delivered if they are voted yes, where that leaves them as
    likely correct as the `cut`; `other_unseen` is their chance before any answer. Held-out masks (h,) are as the
    verifier saw them then. Where every class has a target of its own, `classes` is what was frozen of each, and
    `other_class` (m,) and `heldout_class` (h,) the classes of the others and the held-out masks.
    """

    number: int
    round_number: int
    frozen: Frozen
    mask_id: np.ndarray
    other_id: np.ndarray
    other_chance: np.ndarray
    other_unseen: np.ndarray
    heldout_iou: np.ndarray
    heldout_chance: np.ndarray
    heldout_image: np.ndarray
    confidence: float
    cut: float
    heldout_class: np.ndarray | None = None
    classes: ClassOrders | None = None
    other_class: np.ndarray | None = None

    @property
    def kind(self) -> str:
        """The kind of its pages."""
        return promise_kind(self.number)

    @property
    def drawn(self) -> np.ndarray:
        """The masks in the order in which they are drawn, (n,)."""
        return self.mask_id[self.frozen.order]


@dataclass(frozen=True)
class Standing:
    """A promise and the exact set that it speaks of: `mask_id` (k,), rising.

    `voted` (k,) bool: a person said yes to the mask. `chance` (k,) is the verifier's, NaN where a mask was drawn by
    hand or came in by the lead's order. `brought` are the masks that came in by that, without a verdict. `classes` has
    by name what is promised of each class by itself.

    `stop` says why no more is asked, None where it is worth going on. `due` are the masks that are drawn next for
    classes, the promise over all masks being settled.
    """

    attempt: Attempt
    promise: Promise
    mask_id: np.ndarray
    voted: np.ndarray
    chance: np.ndarray
    brought: np.ndarray
    stop: str | None
    classes: dict[str, ClassPromise]
    due: np.ndarray

    def as_dict(self) -> dict[str, Any]:
        """For programs: what is promised of which set."""
        p, target = self.promise, self.attempt.frozen.target
        return {
            "target": target,
            "confidence": self.attempt.confidence,
            "met": p.met,
            "precision_at_least": p.bound,
            "masks": len(self.mask_id),
            "draws": self.draws,
            "attempt": self.attempt.number,
            "digest": digest_of(self.mask_id),
            "sentence": self.sentence(),
            "missing": self.missing(),
            "classes": {name: of_classes.as_dict(one) for name, one in self.classes.items()},
        }

    def sentence(self) -> str:
        """The promise in words."""
        p, met = self.promise, [name for name, one in self.classes.items() if one.met]
        each = ""
        if met:
            which = "each class" if len(met) == len(self.classes) else ", ".join(met)
            each = f", and {self.classes[met[0]].target:g} or more of those of {which}"
        return (
            f"with {self.attempt.confidence:.0%} confidence, {p.bound:.3f} or more of these {len(self.mask_id)} masks "
            f"are correct{each}; {self.draws} masks, drawn by chance, were asked about for it{self._on_trust()}"
        )

    def _on_trust(self) -> str:
        """What the promise takes for granted: without held-out masks nothing shows what votes overlook."""
        return "" if len(self.attempt.heldout_iou) else "; no mask is held out, so annotators are taken at their word"

    @property
    def draws(self) -> int:
        """The answers that count, those for all masks or, if more, those for the classes."""
        return max(self.promise.draws, sum(one.draws for one in self.classes.values()))

    def missing(self) -> str | None:
        """What is missing to the targets, None where they are reached."""
        parts = [self._missing_over_all()]
        parts += [f"{name}: {short}" for name, one in self.classes.items() if (short := of_classes.missing(one))]
        return "; ".join(part for part in parts if part) or None

    def _missing_over_all(self) -> str | None:
        p, target = self.promise, self.attempt.frozen.target
        if p.met:
            return None
        short = f"{p.bound:.3f} of the masks are certain to be correct, {target:g} is the target"
        if self.stop is None:
            return f"{short}; {p.draws} of the {len(self.attempt.frozen)} masks drawn for it are answered"
        return f"{short}; {self.stop}"


class _Known:
    """What was worked out in this process."""

    def __init__(self) -> None:
        self.attempt: Attempt | None = None
        self.standing: tuple[bytes, object, Standing] | None = None


def attempt_path(store: Store, number: int) -> Path:
    """Where the frozen order of an attempt lies on this machine, once read."""
    return store.folder / "promises" / f"{number:03d}.npz"


def newest_attempt(store: Store) -> Attempt | None:
    """The newest frozen order, None before the first."""
    facts = store.values.get(Key.PROMISE)
    if facts is None:
        return None
    known: _Known = store.companions.setdefault(_Known, _Known())
    number = int(facts["attempt"])
    if known.attempt is None or known.attempt.number != number:
        with np.load(store.files.local(attempt_path(store, number)), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        keys = draw_keys(store.settings.seed, _SALT + number, arrays["mask_id"])
        order = freeze(
            arrays.pop("chance"), arrays.pop("unseen"), keys, facts["voted"], facts["target"], facts["planned"],
            overlooked=facts["overlooked"], missed=facts.get("missed", 0.0),
        )  # fmt: skip
        # What the lead brought in before is in every set: it is delivered in any case.
        order = replace(order, sizes=order.sizes[order.sizes >= facts["least"]])
        frozen = arrays.pop("class_id", None)
        known.attempt = Attempt(
            number, facts["round"], order, confidence=facts["confidence"], cut=facts["cut"], **arrays,
            classes=None if frozen is None else of_classes.class_orders(order, frozen, facts["per_class"]),
        )  # fmt: skip
    return known.attempt


def standing(store: Store) -> Standing | None:
    """The promise as it stands, None before anything was frozen."""
    attempt = newest_attempt(store)
    if attempt is None:
        return None
    known: _Known = store.companions.setdefault(_Known, _Known())
    view, eyes = answered(store), campaign_eyes(store)
    verdict = view.of(attempt.mask_id, "verdict")
    other = view.of(attempt.other_id, "verdict")
    extras, left = _extras(store, attempt, verdict, other), affordable(store)
    open_ = int(np.isin(view.rows["mask"][view.rows["verdict"] == NONE], attempt.mask_id).sum())
    mark = hashlib.blake2b(repr((attempt.number, left, open_, extras.mark)).encode() + verdict.tobytes())
    mark.update(other.tobytes())
    if known.standing is not None and known.standing[0] == mark.digest() and known.standing[1] is eyes:
        return known.standing[2]
    passed = shared_passing(store, attempt, eyes)
    kept = (other == Verdict.YES) & ~np.isin(attempt.other_id, extras.corrected)
    gone = np.isin(attempt.mask_id, extras.corrected) | (np.isin(attempt.mask_id, extras.rejected) & (verdict == NONE))
    gone &= np.isin(verdict, (NONE, Verdict.YES))
    voted = Voted(
        attempt.other_unseen[kept],
        removed=int(gone.sum()),
        # Drawings were corrected by people, but nobody was asked about them since.
        added=len(extras.accepted) + len(extras.drawn),
    )
    error = share_of(attempt.number, 1 - attempt.confidence)
    for_classes = 0.0 if attempt.classes is None else error * CLASSES_SHARE
    error -= for_classes
    now = promise(attempt.frozen, verdict, voted, passed, error)
    more = is_worth_going_on(attempt.frozen, verdict, voted, passed, error, store.settings.search.price, now)
    classes = _of_classes(store, attempt, verdict, (kept, gone, extras), for_classes, now.size)
    going_on = [] if more else sorted((one for one in classes if one.worth), key=lambda one: (one.needed, one.class_id))
    due = np.concatenate([_NO_IDS, *(attempt.mask_id[one.due(verdict)] for one in going_on)])
    stop = _reason(attempt.frozen, now, more or bool(going_on), None if open_ else left)
    first = np.arange(len(verdict)) < now.size
    inside = ((first & (verdict == NONE)) | (verdict == Verdict.YES)) & ~gone
    brought = len(extras.drawn) + len(extras.accepted)
    ids = np.concatenate([attempt.mask_id[inside], attempt.other_id[kept], extras.drawn, extras.accepted])
    of_extras = np.arange(brought) < len(extras.drawn)
    said = np.concatenate([verdict[inside] == Verdict.YES, np.ones(int(kept.sum()), bool), of_extras])
    chance = np.concatenate([attempt.frozen.chance[inside], attempt.other_chance[kept], np.full(brought, np.nan)])
    ids, at = np.unique(ids, return_index=True)
    found = Standing(
        attempt, replace(now, masks=len(ids)), ids, said[at], chance[at], extras.accepted, stop,
        _by_name(store, classes, ids), due,
    )  # fmt: skip
    known.standing = mark.digest(), eyes, found
    return found


def _of_classes(
    store: Store,
    attempt: Attempt,
    verdict: np.ndarray,
    changes: tuple[np.ndarray, np.ndarray, _Extras],
    alpha: float,
    size: int,
) -> list[ClassPromise]:
    """The promises of the classes; `changes` are which others are kept, which masks are gone, and what came in."""
    if attempt.classes is None or attempt.other_class is None:
        return []
    kept, gone, extras = changes
    added = of_classes.classes_of(store, np.concatenate([extras.accepted, extras.drawn]))
    voted = of_classes.voted_by_class(
        attempt.other_unseen[kept], attempt.other_class[kept], attempt.classes.class_id[gone], added
    )
    terms = ClassTerms(alpha, store.settings.search.price)
    passed = passed_by_class(store, attempt, campaign_eyes(store))
    return class_promises(attempt.classes, verdict, voted, passed, terms, size)


def _by_name(store: Store, classes: list[ClassPromise], mask_ids: np.ndarray) -> dict[str, ClassPromise]:
    """Promises of the classes that any of these masks is of, which are as many as they are."""
    if not classes:
        return {}
    ids, counts = np.unique(of_classes.classes_of(store, mask_ids), return_counts=True)
    masks, names = dict(zip(ids.tolist(), counts.tolist(), strict=True)), store.classes()
    here = [one for one in classes if one.class_id in masks]
    return {names[one.class_id]: replace(one, masks=masks[one.class_id]) for one in here}


def _reason(frozen: Frozen, now: Promise, more: bool, left: int | None) -> str | None:
    """Why no more masks are drawn, None where it goes on.

    `left` questions may still be asked; None without a limit, or while answers are waited for.
    """
    if more:
        return "the budget is spent" if left == 0 else None
    if now.met and now.size == len(frozen):
        return "the largest set is certain enough"
    if now.draws >= len(frozen):
        return "all its masks were asked about"
    if not now.met:
        return f"after {now.draws} questions no set is certain enough"
    return "more questions would bring too few masks"


@dataclass(frozen=True)
class _Extras:
    """What people changed beside the answers; mask ids all.

    `corrected` masks are gone, or `drawn` anew; `accepted` ones come in by the lead's order,
    `rejected` ones go by it.
    """

    corrected: np.ndarray
    drawn: np.ndarray
    accepted: np.ndarray
    rejected: np.ndarray

    @property
    def mark(self) -> tuple:
        """Something that differs where they do."""
        columns = self.corrected, self.drawn, self.accepted, self.rejected
        return tuple(hashlib.blake2b(np.ascontiguousarray(c).tobytes()).hexdigest() for c in columns)


def _extras(store: Store, attempt: Attempt, verdict: np.ndarray, other: np.ndarray) -> _Extras:
    corrections = {mask: d for mask, d in sorted(counted_corrections(store).items()) if d.state in (CORRECTED, NOTHING)}
    drawn = [(mask, drawn_id(d.id)) for mask, d in corrections.items() if d.state == CORRECTED]
    orders = [lead_orders(store, r.number) for r in store.rounds.all()]
    accepted, rejected = (np.concatenate([_NO_IDS, *(o[kind] for o in orders)]) for kind in (0, 1))
    corrected = np.array(list(corrections), np.int64)
    verdict_of = answered(store)
    accepted = accepted[(verdict_of.of(accepted, "verdict") == NONE) & ~np.isin(accepted, corrected)]
    if len(attempt.frozen.sizes):  # those that are delivered whatever is promised need no order
        accepted = accepted[~np.isin(accepted, attempt.mask_id[: attempt.frozen.sizes[0]])]
    ids = np.array([new for _, new in drawn], np.int64)
    if len(ids) or len(accepted):
        there = np.concatenate([attempt.mask_id[_stands(verdict)], attempt.other_id[other == Verdict.YES]])
        there = there[~np.isin(there, np.concatenate([corrected, accepted]))]
        new = _new_ones(store, np.concatenate([ids, accepted]), there)
        ids, accepted = ids[np.isin(ids, new)], accepted[np.isin(accepted, new)]
    return _Extras(corrected, ids, accepted, rejected)


_NO_IDS = np.zeros(0, np.int64)


def _stands(verdict: np.ndarray) -> np.ndarray:
    return np.isin(verdict, (NONE, Verdict.YES))


def _new_ones(store: Store, mask_ids: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Those of these masks that show something that is not `there`, of two that show the same one: drawn ones first."""
    iou = store.settings.rounds.dedupe_iou
    masks = store.masks.read(mask_ids)
    pairs = overlaps_of(masks).rivals(iou, COVERED)
    rank = masks.score.astype(np.float64) + 2 * is_drawn(masks.mask_id)
    masks = masks.select(without_rivals(rank, pairs, np.zeros(len(masks), bool)))
    # Of all that is frozen only what lies in their images is read; masks of no tree may lie in any.
    image = column_of(store, there, "image")
    near = store.masks.read(there[np.isin(image, masks.image_id) | (image < 0)])
    return drop_known(masks, near.select(np.isin(near.image_id, masks.image_id)), iou, COVERED).mask_id
