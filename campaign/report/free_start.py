"""The free start: pool masks that look most like held-out masks known to be correct, and what became of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from campaign.records.dataset_masks import DatasetMasks
from campaign.records.verdict import Verdict
from campaign.report.nearest import nearest_to_good
from campaign.report.records import Crop, FreeStart
from campaign.store import Store
from ml_backend.learning.evaluation import true_iou

NEAREST = 100  # pool masks looked at
REFERENCES = 2000  # held-out masks that they are compared with, at most


def free_start(
    store: Store,
    masks: DatasetMasks,
    known: Mapping[int, Verdict],
    crops: Callable[[list[int]], tuple[Crop, ...]],
    shown: int,
) -> tuple[FreeStart, ...]:
    """Of every class whose detector was tried on the held-out images, in the first round (J. Hu, 2019).

    `masks` are the dataset, `known` verdicts by mask id; `crops` renders masks.
    """
    if not store.masks.shards(1, "heldout") or not store.masks.shards(1, "pool"):
        return ()
    heldout = store.masks.predictions(1, "heldout")
    correct = true_iou(heldout, store.images.annotated("heldout"), one_to_one=False) >= store.settings.search.k_iou
    obtained = set(masks.mask_id.tolist())
    starts = []
    for class_id in store.classes():
        own = np.flatnonzero(heldout.class_id == class_id)[:REFERENCES]
        pool = store.masks.predictions(1, "pool", class_id)
        if not len(pool) or not heldout.features.shape[1]:
            continue
        near = nearest_to_good(heldout.features[own], correct[own], pool.features, NEAREST)
        if len(near):
            ids = pool.mask_id[near.rows].tolist()
            refused = sum(known.get(i) == Verdict.NO for i in ids)
            kept = sum(i in obtained for i in ids)
            starts.append(FreeStart(class_id, len(ids), kept, refused, crops(ids[:shown])))
    return tuple(starts)
