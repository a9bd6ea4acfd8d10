"""What the store holds of masks drawn by hand: corrections and paintings, as facts and as masks with ids."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from pycocotools import mask as mask_util
from sqlalchemy import select

from campaign.records.names import Name
from campaign.store import models as m
from campaign.store.sessions import Sessions, portions
from ml_backend.mask_ids import drawing_of
from ml_backend.predictions import Predictions


class DrawingState(Name):
    """What an annotation made of what it was shown; `withdrawn` is that it was deleted."""

    CORRECTED = "corrected"
    NOTHING = "none"
    UNSURE = "unsure"
    PAINTED = "painted"
    COMPLETE = "complete"
    MISSING = "missing"
    WITHDRAWN = "withdrawn"


CORRECTED, NOTHING, UNSURE, PAINTED, WITHDRAWN = (
    DrawingState.CORRECTED, DrawingState.NOTHING, DrawingState.UNSURE, DrawingState.PAINTED, DrawingState.WITHDRAWN,
)  # fmt: skip
COMPLETE, MISSING = DrawingState.COMPLETE, DrawingState.MISSING


class Drawings:
    """Part of `Store`: what annotators drew, and the masks that came of it."""

    def __init__(self, sessions: Sessions):
        self._sessions = sessions

    def add(self, rows: Iterable[dict[str, Any]]) -> int:
        """Adds facts that are not there yet; returns how many were new."""
        new = 0
        with self._sessions() as session:
            for row in rows:
                same = select(m.Drawing.id).filter_by(
                    annotation_id=row["annotation_id"], answered_at=row["answered_at"], state=str(row["state"])
                )
                if session.scalar(same) is None:
                    session.add(m.Drawing(**row | {"state": str(row["state"])}))
                    session.flush()
                    new += 1
        return new

    def standing(self, mask_id: int | None = None) -> list[m.Drawing]:
        """The facts that stand: of each user and page the newest; who draws on a page twice is heard once; by id.

        Those about all masks, or about one.
        """
        last: dict[tuple[str, str], m.Drawing] = {}
        for row in self.by_annotation(mask_id):
            key = row.page_key, row.annotator
            if key not in last or (row.answered_at, row.annotation_id) >= (
                last[key].answered_at,
                last[key].annotation_id,
            ):
                last[key] = row
        return sorted(last.values(), key=lambda row: row.id)

    def by_annotation(self, mask_id: int | None = None) -> list[m.Drawing]:
        """Of each annotation the newest fact, unless it was withdrawn; by id. Of all, or those about one mask."""
        query = select(m.Drawing).order_by(m.Drawing.id)
        if mask_id is not None:
            query = query.where(m.Drawing.mask_id == mask_id)
        newest: dict[int, m.Drawing] = {}
        with self._sessions() as session:
            for row in session.scalars(query):
                if row.annotation_id not in newest or row.answered_at >= newest[row.annotation_id].answered_at:
                    newest[row.annotation_id] = row
        return sorted((row for row in newest.values() if row.state != WITHDRAWN), key=lambda row: row.id)

    def some(self, numbers: Collection[int]) -> dict[int, m.Drawing]:
        """Drawings by their numbers; unknown ones are left out."""
        with self._sessions() as session:
            return {
                row.id: row
                for part in portions(sorted(numbers))
                for row in session.scalars(select(m.Drawing).where(m.Drawing.id.in_(part)))
            }

    def origins(self, mask_ids: np.ndarray) -> list[int]:
        """The ids of the predictions that drawn masks were. Raises KeyError for an id that no drawing has."""
        rows = self._rows(mask_ids)
        return [int(rows[drawing_of(int(i))].mask_id or 0) for i in mask_ids]

    def replace(self, origins: Predictions, mask_ids: np.ndarray) -> Predictions:
        """The drawn masks of these ids, with the scores of the predictions that they were."""
        rows = self._rows(mask_ids)
        shapes = [rows[drawing_of(int(i))].masks["masks"][0] for i in mask_ids]
        rles = [{"size": s["size"], "counts": s["counts"].encode("ascii")} for s in shapes]
        return replace(
            origins,
            mask_id=np.asarray(mask_ids, np.int64),
            box=np.array([mask_util.toBbox(rle) for rle in rles], np.float32),
            rle=np.array([rle["counts"] for rle in rles], object),
        )

    def _rows(self, mask_ids: np.ndarray) -> dict[int, m.Drawing]:
        """Drawings that made a mask, by their ids."""
        wanted = {drawing_of(int(i)): int(i) for i in mask_ids}
        rows = self.some(wanted)
        for drawing, mask in wanted.items():
            row = rows.get(drawing)
            if row is None or row.mask_id is None or not row.masks["masks"]:
                raise KeyError(mask)
        return rows
