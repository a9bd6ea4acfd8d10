"""The results of a campaign: the COCO export and the report, from what the store holds."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from campaign.dataset.export import export_coco
from campaign.derived.certificates import standing_certificate
from campaign.derived.dataset import final_masks
from campaign.derived.delivery import promise_of
from campaign.derived.recall import recall_figures
from campaign.derived.spending import questions_asked
from campaign.pages.painting import reference
from campaign.store import Store


def export_campaign(store: Store, path: Path) -> int:
    """Writes the dataset as COCO, with image ids and names as in the pool's file; gives the number of masks.

    Raises InputError where the file cannot be written; then nothing is left behind.
    """
    masks = final_masks(store)
    images = store.images.rows("pool")
    file_id = {r.id: r.coco_id for r in images}
    masks = replace(masks, image_id=np.array([file_id[int(i)] for i in masks.image_id], np.int64))
    rows: list[dict[str, Any]] = [
        {"id": r.coco_id, "file_name": r.file_name, "width": r.width, "height": r.height}
        | ({"source_task": r.source_task} if r.source_task else {})
        for r in images
    ]
    info = {
        "campaign": store.settings.name,
        "date_created": date.today().isoformat(),
        "questions": questions_asked(store),
        "rounds": len(store.rounds.all()),
        "k_iou": store.settings.search.k_iou,
        "policy": store.settings.search.policy,
    }
    painted = reference(store)
    if painted.sq is not None:
        info["painted_reference"] = painted.as_dict()
    if (recall := recall_figures(store, masks)) is not None:
        info["recall"] = recall
    if store.settings.search.policy == "target":
        info["promise"] = promise_of(store, masks.mask_id)
    certificate = standing_certificate(store, masks)
    return export_coco(path, masks, rows, store.classes(), info=info, certificate=certificate)
