"""Masks that may be gold: held-out predictions beyond dispute, and questions on which several users agree."""

from __future__ import annotations

import hashlib
from collections import defaultdict

import numpy as np

from campaign.derived.answers import counted_answers
from campaign.quality.measures import GoldMask
from campaign.records.verdict import Verdict
from campaign.store import Store
from campaign.store.views import save_view
from ml_backend.mask_ids import is_drawn

CLEAR_YES, CLEAR_NO = 0.05, 0.15  # a mask this far above or below `k_iou` is beyond dispute
CONFIRMED = 2  # users who agree on a mask before it may be gold


def gold_supply(store: Store) -> list[GoldMask]:
    """Held-out predictions whose verdict is beyond dispute: by their IoU with the true masks, of every round."""
    return [mask for row in store.rounds.all() for mask in _judged(store, row.number)]


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


def _judged(store: Store, round_number: int) -> list[GoldMask]:
    """The gold among a round's held-out predictions, worked out once and kept as a snapshot."""
    shards = store.masks.shards(round_number, "heldout")
    if not shards:
        return []
    k_iou = store.settings.search.k_iou
    parts = repr([1, k_iou, *((s.number, s.masks) for s in shards)])
    name, version = f"gold/{round_number}", hashlib.blake2b(parts.encode(), digest_size=16).hexdigest()
    row = store.views.row(name)
    if row is not None and row.version == version and row.file:
        stored = store.views.read(row.file)
        if stored is not None:
            return _masks(stored[0])
    from ml_backend.learning.evaluation import true_iou

    predictions = store.masks.predictions(round_number, "heldout", features=False)
    iou = true_iou(predictions, store.images.annotated("heldout"), one_to_one=False)
    yes, no = iou >= min(k_iou + CLEAR_YES, 1.0), iou <= k_iou - CLEAR_NO
    clear = np.flatnonzero(yes | no)
    arrays = {
        "mask_id": predictions.mask_id[clear], "class_id": predictions.class_id[clear], "yes": yes[clear],
        "iou": iou[clear], "image_id": predictions.image_id[clear],
    }  # fmt: skip
    file = f"gold-{round_number}.npz"
    store.views.write(file, arrays, {})
    with store.session() as session:
        save_view(session, name, version, {}, {}, file)
    return _masks(arrays)


def _masks(arrays: dict[str, np.ndarray]) -> list[GoldMask]:
    columns = (arrays[name].tolist() for name in ("mask_id", "class_id", "yes", "iou", "image_id"))
    return [
        GoldMask(mask, class_id, Verdict.YES if yes else Verdict.NO, iou, image)
        for mask, class_id, yes, iou, image in zip(*columns, strict=True)
    ]
