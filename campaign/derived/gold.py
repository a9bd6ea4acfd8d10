"""Masks that may be gold: held-out predictions, whose truth is known, and questions on which several users agree."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from campaign.derived.answers import counted_answers
from campaign.derived.heldout import heldout
from campaign.quality.measures import GoldMask, is_near
from campaign.records.verdict import Verdict
from campaign.store import Store
from ml_backend.mask_ids import is_drawn

CONFIRMED = 2  # users who agree on a mask before it may be gold


def gold_supply(store: Store) -> list[GoldMask]:
    """All held-out predictions of every round, correct where their IoU with a true mask reaches `search.k_iou`.

    Those too near to it to be beyond dispute are marked so. Worked out once while the predictions are the same.
    """
    known: _Supplies = store.companions.setdefault(_Supplies, _Supplies())
    k_iou, masks = store.settings.search.k_iou, list[GoldMask]()
    for row in store.rounds.all():
        columns = heldout(store).of_round(row.number)
        before = known.of.get(row.number)
        if before is None or before[0] is not columns or before[1] != k_iou:
            before = known.of[row.number] = columns, k_iou, _supply_of(columns, k_iou)
        masks += before[2]
    return masks


class _Supplies:
    """What was worked out in this process, by round: from which columns, by which `k_iou`, and the masks."""

    def __init__(self) -> None:
        self.of: dict[int, tuple[dict[str, np.ndarray], float, list[GoldMask]]] = {}


def _supply_of(known: dict[str, np.ndarray], k_iou: float) -> list[GoldMask]:
    near, yes = is_near(known["iou"], k_iou), known["iou"] >= k_iou
    columns = (known["mask_id"], known["class_id"], yes, known["iou"], known["image_id"], near)
    return [
        GoldMask(mask, class_id, Verdict.YES if correct else Verdict.NO, *rest)
        for mask, class_id, correct, *rest in zip(*(c.tolist() for c in columns), strict=True)
    ]


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
