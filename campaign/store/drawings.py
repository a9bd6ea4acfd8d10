"""What the store holds of masks drawn by hand: corrections and paintings, as facts and as masks with ids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as mask_util
from sqlalchemy import select

from campaign.store import models as m
from campaign.store.masks import MaskRecords
from ml_backend.predictions import Predictions

CORRECTED, NOTHING, UNSURE, PAINTED, WITHDRAWN = "corrected", "none", "unsure", "painted", "withdrawn"


class DrawingRecords(MaskRecords):
    """Part of `Store`: what annotators drew, and their corrected masks among those of the detector."""

    def add_drawings(self, rows: Iterable[dict[str, Any]]) -> int:
        """Adds facts that are not there yet; gives how many were new."""
        new = 0
        with self.session() as session:
            for row in rows:
                same = select(m.Drawing.id).filter_by(
                    annotation_id=row["annotation_id"], answered_at=row["answered_at"], state=row["state"]
                )
                if session.scalar(same) is None:
                    session.add(m.Drawing(**row))
                    session.flush()
                    new += 1
        return new

    def drawings(self) -> list[m.Drawing]:
        """The facts that stand: of each annotation the newest, unless it was withdrawn; by id."""
        newest: dict[int, m.Drawing] = {}
        with self.session() as session:
            for row in session.scalars(select(m.Drawing).order_by(m.Drawing.id)):
                if row.annotation_id not in newest or row.answered_at >= newest[row.annotation_id].answered_at:
                    newest[row.annotation_id] = row
        return sorted((row for row in newest.values() if row.state != WITHDRAWN), key=lambda row: row.id)

    def drawn_masks(self, mask_ids: Sequence[int] | np.ndarray) -> Predictions:
        """Corrected masks by their ids, in that order, with the scores of the predictions they were.

        Raises KeyError for an id that no drawing has.
        """
        ids = [int(i) for i in mask_ids]
        with self.session() as session:
            rows = [session.get(m.Drawing, i & ((1 << 40) - 1)) for i in ids]
        for i, row in zip(ids, rows, strict=True):
            if row is None or row.mask_id is None or not row.masks["masks"]:
                raise KeyError(i)
        known = [row for row in rows if row is not None]
        if not known:
            return Predictions.empty()
        origins = self.masks([int(row.mask_id or 0) for row in known])
        shapes = [row.masks["masks"][0] for row in known]
        rles = [{"size": s["size"], "counts": s["counts"].encode("ascii")} for s in shapes]
        return Predictions(
            np.array(ids, np.int64), origins.image_id, origins.class_id,
            np.array([mask_util.toBbox(rle) for rle in rles], np.float32),
            np.array([rle["counts"] for rle in rles], object), origins.size, origins.confidence,
            origins.predicted_iou, np.zeros((len(ids), 0), np.float16),
        )  # fmt: skip
