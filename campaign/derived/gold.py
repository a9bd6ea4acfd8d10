"""Masks that may be gold: held-out predictions, whose truth is known, and questions on which several users agree."""

from __future__ import annotations

from collections import defaultdict

from campaign.derived.answers import counted_answers
from campaign.derived.heldout import heldout
from campaign.quality.measures import GoldMask, is_near
from campaign.records.verdict import Verdict
from campaign.store import Store
from ml_backend.mask_ids import is_drawn

CONFIRMED = 2  # users who agree on a mask before it may be gold


def gold_supply(store: Store) -> list[GoldMask]:
    """All held-out predictions of every round, correct where their IoU with a true mask reaches `search.k_iou`.

    Those too near to it to be beyond dispute are marked so.
    """
    k_iou, masks = store.settings.search.k_iou, list[GoldMask]()
    for row in store.rounds.all():
        known = heldout(store).of_round(row.number)
        near = is_near(known["iou"], k_iou)
        yes = known["iou"] >= k_iou
        columns = (known["mask_id"], known["class_id"], yes, known["iou"], known["image_id"], near)
        for mask, class_id, correct, *rest in zip(*(c.tolist() for c in columns), strict=True):
            masks.append(GoldMask(mask, class_id, Verdict.YES if correct else Verdict.NO, *rest))
    return masks


def confirmed(store: Store) -> list[GoldMask]:
    """Questions on which at least `CONFIRMED` users whose answers count agree, all yes or all no."""
    if not store.settings.quality.overlap_share:
        return []  # no question is asked of two users
    given: dict[int, dict[str, str]] = defaultdict(dict)
    for a in counted_answers(store):
        given[a.mask_id][a.annotator] = a.verdict
    agreed = {
        mask: next(iter(votes.values()))
        for mask, votes in given.items()
        if len(votes) >= CONFIRMED and set(votes.values()) in ({"yes"}, {"no"}) and not is_drawn(mask)
    }
    masks = store.masks.read(sorted(agreed))
    return [
        GoldMask(i, c, Verdict.parse(agreed[i]), image_id=image)
        for i, c, image in zip(masks.mask_id.tolist(), masks.class_id.tolist(), masks.image_id.tolist(), strict=True)
    ]
