"""The results of a campaign: the COCO export and the report, from what the store holds."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from campaign.dataset.export import export_coco
from campaign.dataset.propagation import drop_duplicates
from campaign.derived.trust import counted_answers
from campaign.quality.answers import verdicts
from campaign.records.dataset_masks import DatasetMasks
from campaign.records.verdict import Verdict
from campaign.steps.propagate import obtained
from campaign.store import Store
from ml_backend.files import write_whole


def final_masks(store: Store) -> DatasetMasks:
    """The dataset as it stands: every ended round's masks, and those of the running round decided so far.

    A mask that the answers since then, an audit's too, no longer confirm is left out. Of masks of several rounds that
    show the same object the earlier one stays.
    """
    parts = [store.datasets.read()]
    current = store.rounds.newest()
    if current is not None and current.stage in ("verify", "propagate"):
        parts.append(obtained(store, current.number))
    masks = drop_duplicates(DatasetMasks.concatenate(parts), store.settings.rounds.dedupe_iou)
    voted = verdicts(counted_answers(store))
    return masks.select([voted.get(int(i), Verdict.YES) == Verdict.YES for i in masks.mask_id])


def export_campaign(store: Store, path: Path) -> int:
    """Writes the dataset as COCO, with image ids and names as in the pool's file; gives the number of masks.

    Raises InputError where the file cannot be written; then nothing is left behind.
    """
    from campaign.pages.audits import standing_certificate
    from campaign.pages.painting import reference

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
        "questions": store.questions.count("verify"),
        "rounds": len(store.rounds.all()),
        "k_iou": store.settings.search.k_iou,
        "policy": store.settings.search.policy,
    }
    painted = reference(store)
    if painted.sq is not None:
        info["painted_reference"] = painted.as_dict()
    certificate = standing_certificate(store, masks)
    return export_coco(path, masks, rows, store.classes(), info=info, certificate=certificate)


def report_campaign(store: Store, path: Path) -> None:
    """Writes the report. Raises InputError where the file cannot be written."""
    from campaign.report import render_report, report_data

    html = render_report(report_data(store))
    write_whole(path, lambda p: p.write_text(html, encoding="utf-8"))
