"""The free start: pool masks that look most like held-out masks known to be correct, and what became of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from campaign.derived.answers import verdicts_on
from campaign.derived.outline import is_obtained
from campaign.records.verdict import Verdict
from campaign.report.nearest import nearest_to_good
from campaign.report.records import Crop, FreeStart
from campaign.store import Store
from ml_backend.learning.evaluation import true_iou

NEAREST = 100  # pool masks looked at
MOST = 500_000  # masks of the first round, from which on it is left out
REFERENCES = 2000  # held-out masks that they are compared with, at most


def free_start(store: Store, crops: Callable[[list[int]], tuple[Crop, ...]], shown: int) -> tuple[FreeStart, ...]:
    """Of every class whose detector was tried on the held-out images, in the first round (J. Hu, 2019).

    `crops` renders masks. Left out where the round has more than `MOST` masks: all of them are compared.
    """
    if not store.masks.shards(1, "heldout") or not 0 < store.masks.count(1, "pool") <= MOST:
        return ()
    heldout = store.masks.predictions(1, "heldout")
    correct = true_iou(heldout, store.images.annotated("heldout"), one_to_one=False) >= store.settings.search.k_iou
    starts = []
    for class_id in store.classes():
        own = np.flatnonzero(heldout.class_id == class_id)[:REFERENCES]
        pool = store.masks.predictions(1, "pool", class_id)
        if not len(pool) or not heldout.features.shape[1]:
            continue
        near = nearest_to_good(heldout.features[own], correct[own], pool.features, NEAREST)
        if len(near):
            ids = pool.mask_id[near.rows].tolist()
            refused = sum(verdict == Verdict.NO for verdict in verdicts_on(store, ids).values())
            kept = int(is_obtained(store, 1, pool.mask_id[near.rows]).sum())
            starts.append(FreeStart(class_id, len(ids), kept, refused, crops(ids[:shown])))
    return tuple(starts)
