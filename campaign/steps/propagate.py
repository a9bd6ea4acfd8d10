"""Propagate: what was decided in a round becomes masks of the dataset."""

from __future__ import annotations

import numpy as np

from campaign.dataset.propagation import drop_duplicates, propagate
from campaign.derived.spending import questions_allowed
from campaign.derived.trust import counted_answers, qualified, withdrawals
from campaign.quality.answers import verdicts
from campaign.records.dataset_masks import EDITED_RULE, DatasetMasks
from campaign.store import Store
from campaign.store import models as m
from campaign.store.drawings import CORRECTED, NOTHING
from ml_backend.mask_ids import drawn_id, split_mask_id


def obtained(store: Store, round_number: int) -> DatasetMasks:
    """The masks that the decisions and answers of a round bring in, without duplicates among themselves.

    A mask that any answer, an audit's too, votes down is never among them; one voted yes always is.
    """
    row = next(r for r in store.rounds.all() if r.number == round_number)
    voted = verdicts(counted_answers(store))
    parts: list[DatasetMasks] = []
    for entry in store.trees.rows(round_number):
        if not entry.masks:
            continue
        tree, mask_ids = store.trees.read(round_number, entry.class_id)
        parts.append(
            propagate(
                store.masks.read(mask_ids),
                tree,
                store.decisions.rows(round_number, entry.class_id),
                voted,
                round_number=round_number,
                model_version=row.model_version or "",
            )
        )
    masks = corrected(store, DatasetMasks.concatenate(parts), round_number)
    return drop_duplicates(masks, store.settings.rounds.dedupe_iou)


def corrected(store: Store, masks: DatasetMasks, round_number: int) -> DatasetMasks:
    """The masks of a round with those that annotators corrected in place of what they were.

    A correction brings its mask in, whatever was decided of it, and one that shows no object goes.
    """
    found = {
        mask: drawing
        for mask, drawing in counted_corrections(store).items()
        if drawing.state in (CORRECTED, NOTHING) and split_mask_id(mask)[0] == round_number
    }
    if not found:
        return masks
    row_of = {int(mask): row for row, mask in enumerate(masks.mask_id) if int(mask) in found}
    drawn = [(mask, drawn_id(d.id)) for mask, d in sorted(found.items()) if d.state == CORRECTED]
    new, rows = store.masks.read([i for _, i in drawn]), [row_of.get(mask) for mask, _ in drawn]
    version = next((r.model_version or "" for r in store.rounds.all() if r.number == round_number), "")

    def before(column: np.ndarray, otherwise: int) -> np.ndarray:
        return np.array([otherwise if row is None else column[row] for row in rows], column.dtype)

    n = len(new)
    added = DatasetMasks(
        mask_id=new.mask_id,
        image_id=new.image_id,
        class_id=new.class_id,
        box=new.box,
        rle=new.rle,
        size=new.size,
        confidence=new.confidence,
        predicted_iou=new.predicted_iou,
        round=np.full(n, round_number, np.int32),
        cluster=before(masks.cluster, -1),
        asked=before(masks.asked, 0),
        yes=before(masks.yes, 0),
        rule=np.array([f"{EDITED_RULE}, mask {mask} before" for mask, _ in drawn], object),
        model_version=np.full(n, version, object),
        voted=np.ones(n, bool),
    )
    kept = masks.select([int(mask) not in found for mask in masks.mask_id])
    return DatasetMasks.concatenate([kept, added])


def counted_corrections(store: Store) -> dict[int, m.Drawing]:
    """The newest drawing of each mask that was to be corrected, of users whose answers count."""
    standing = [d for d in store.drawings.standing() if d.mask_id is not None]
    if standing and store.settings.quality.qualification:
        known = qualified(store)
        standing = [d for d in standing if d.annotator in known]
    if standing and (found := withdrawals(store)):
        standing = [d for d in standing if not any(t.holds(d.answered_at) for t in found.get(d.annotator, []))]
    newest = sorted(standing, key=lambda d: (d.answered_at, d.id))
    return {int(d.mask_id or 0): d for d in newest}


def finish_round(store: Store, round_number: int) -> None:
    """Stores the dataset of a round, ends it, and starts the next where one should follow.

    The loop goes on until `rounds.rounds` are over, a round adds too little (`rounds.least_new`), or the budget is
    spent (Papadopoulos et al., section 3.4).
    """
    masks = obtained(store, round_number)
    store.datasets.save(round_number, masks)
    settings = store.settings.rounds
    spent, budget = store.questions.count("verify"), questions_allowed(store)
    enough = len(masks) > 0 and len(masks) >= settings.least_new * len(store.datasets.read(before=round_number))
    follow = round_number < settings.rounds and enough and (budget is None or spent < budget)
    store.rounds.end(round_number, {"masks": len(masks), "questions": spent}, follow)
