"""What `M_r` thinks of masks that were corrected by clicks, of the facts that are stored of their last visit.

It learnt on simulated clicks (`campaign.steps.interactive`): it says which masks are visited again and which are not
trained on. Nothing that is promised rests on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as mask_util

from campaign.records.page import PageKind
from campaign.store import Store
from campaign.store import models as m
from campaign.store.clicks import MODELS
from campaign.store.drawings import CORRECTED
from ml_backend.interactive.ranking import Ranker, most_likely, visit_features
from ml_backend.interactive.segmenter import Click
from ml_backend.mask_ids import drawing_of, drawn_id, is_drawn
from ml_backend.masks.rle import decode_window

DOUBTFUL = 0.5  # chance to be correct below which a corrected mask is not trained on: more likely wrong than right


class Judged(NamedTuple):
    """A corrected mask's expected IoU, and the chance that it is at least `search.k_iou`."""

    expected_iou: float
    chance: float


def ranker_path(store: Store, round_number: int, version: str) -> Path:
    """Where the ranking model of a segmenter's masks lies."""
    return store.folder / MODELS / f"{round_number:03d}-{version}.npz"


def judgements(store: Store, drawings: Iterable[m.Drawing]) -> dict[int, Judged]:
    """{drawn mask: what is thought of it} of these drawings, as far as there is anything to go by.

    There is where the mask is what a segmenter of this campaign answered to the clicks of its last visit, and `M_r`
    was fitted to that segmenter; not where a box or the brush was at work or the visit changed nothing.
    """
    # Of two rounds that trained the same, the newer one.
    paths = {path.stem.split("-", 1)[1]: path for path in store.files.listed(store.folder / MODELS, "*-*.npz")}
    chosen = [d for d in drawings if d.state == CORRECTED]
    if not paths or not chosen:
        return {}
    steps = store.clicks.of_annotations([d.annotation_id for d in chosen])
    visit_of = {p.key: p.place["visit"] for p in store.pages.rows(kind=PageKind.CORRECT) if p.place}
    tables: dict[str, dict[int, np.ndarray]] = {}
    for d in chosen:
        made = steps.get((d.annotation_id, d.answered_at), [])
        version = made[-1].model_version if made else None
        row = facts_features(d, made, visit_of[d.page_key]) if version in paths and d.page_key in visit_of else None
        if version is not None and row is not None:
            tables.setdefault(version, {})[drawn_id(d.id)] = row
    judged: dict[int, Judged] = {}
    for version, table in tables.items():
        said = Ranker.load(store.files.local(paths[version])).judge(np.array(list(table.values())))
        rows = zip(said.expected_iou.tolist(), said.correct.tolist(), strict=True)
        judged |= dict(zip(table, (Judged(*row) for row in rows), strict=True))
    return judged


def facts_features(drawing: m.Drawing, steps: Sequence[m.ClickFact], visit: int) -> np.ndarray | None:
    """What `M_r` goes by, (7,) float32, of a drawing and the steps that made it; None where they do not tell."""
    shapes = drawing.masks["masks"]
    if not steps or len(shapes) != 1 or any(s.kind not in ("positive", "negative") for s in steps):
        return None
    before, after, predicted = steps[0].before, steps[-1].after, steps[-1].predicted_iou
    if before is None or after is None or predicted is None or shapes[0]["counts"] != after["counts"]:
        return None
    parts = [{"size": rle["size"], "counts": rle["counts"].encode("ascii")} for rle in (before, after)]
    # Only the part of the image that holds both masks and the clicks is decoded.
    boxes = np.array([mask_util.toBbox(part) for part in parts])
    ends = np.r_[boxes[:, :2], boxes[:, :2] + boxes[:, 2:], [(s.x, s.y) for s in steps]]
    (left, top), (right, bottom) = np.floor(ends.min(0)).astype(int), np.ceil(ends.max(0)).astype(int)
    window = max(int(left) - 1, 0), max(int(top) - 1, 0), int(right) + 1, int(bottom) + 1
    masks = [decode_window(part, *window) for part in parts]
    clicks = [Click(s.x - window[0], s.y - window[1], s.kind == "positive") for s in steps]
    return visit_features(masks[0], masks[1], clicks, visit, predicted)


def accepted_unseen(store: Store, judged: dict[int, Judged]) -> set[int]:
    """Those of these masks that may stay without another look: together they keep `search.precision`."""
    ids = sorted(judged)
    accepted = most_likely(np.array([judged[i].chance for i in ids]), store.settings.search.precision)
    return {i for i, stays in zip(ids, accepted, strict=True) if stays}


def doubtful(store: Store, mask_ids: Sequence[int] | np.ndarray) -> set[int]:
    """Those of these masks that were corrected by clicks and are more likely wrong than right."""
    drawn = [int(i) for i in mask_ids if is_drawn(int(i))]
    drawings: dict[int, Any] = store.drawings.some([drawing_of(i) for i in drawn]) if drawn else {}
    return {i for i, said in judgements(store, drawings.values()).items() if said.chance < DOUBTFUL}
