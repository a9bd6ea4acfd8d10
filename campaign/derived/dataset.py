"""The masks that decisions, answers and corrections bring: of a round, and of the campaign as it stands."""

from __future__ import annotations

import numpy as np

from campaign.dataset.propagation import drop_duplicates, propagate
from campaign.derived.answers import counted_verdicts
from campaign.derived.live import live
from campaign.records.dataset_masks import EDITED_RULE, DatasetMasks
from campaign.records.stage import Stage
from campaign.records.verdict import Verdict
from campaign.store import Store
from campaign.store import models as m
from campaign.store.drawings import CORRECTED, NOTHING
from ml_backend.mask_ids import drawn_id, round_of


def final_masks(store: Store) -> DatasetMasks:
    """The dataset as it stands: every ended round's masks, and those of the running round decided so far.

    A mask that the answers since then, an audit's too, no longer confirm is left out. Of masks of several rounds that
    show the same object the earlier one stays.
    """
    parts = [store.datasets.read()]
    current = store.rounds.newest()
    if current is not None and current.stage in (Stage.VERIFY, Stage.PROPAGATE):
        parts.append(obtained(store, current.number))
    masks = drop_duplicates(DatasetMasks.concatenate(parts), store.settings.rounds.dedupe_iou)
    voted = counted_verdicts(store)
    return masks.select([voted.get(int(i), Verdict.YES) == Verdict.YES for i in masks.mask_id])


def obtained(store: Store, round_number: int) -> DatasetMasks:
    """The masks that the decisions and answers of a round bring in, without duplicates among themselves.

    A mask that any answer, an audit's too, votes down is never among them; one voted yes always is.
    """
    row = store.rounds.get(round_number)
    voted = counted_verdicts(store)
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
    corrections = {
        mask: drawing
        for mask, drawing in counted_corrections(store).items()
        if drawing.state in (CORRECTED, NOTHING) and round_of(mask) == round_number
    }
    if not corrections:
        return masks
    row_of = {int(mask): row for row, mask in enumerate(masks.mask_id) if int(mask) in corrections}
    drawn = [(mask, drawn_id(d.id)) for mask, d in sorted(corrections.items()) if d.state == CORRECTED]
    new, rows = store.masks.read([i for _, i in drawn]), [row_of.get(mask) for mask, _ in drawn]
    version = store.rounds.get(round_number).model_version or ""

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
    kept = masks.select([int(mask) not in corrections for mask in masks.mask_id])
    return DatasetMasks.concatenate([kept, added])


def counted_corrections(store: Store) -> dict[int, m.Drawing]:
    """The newest drawing of each mask that was to be corrected, of users whose answers count."""
    standing = [d for d in store.drawings.standing() if d.mask_id is not None]
    trust = live(store).trust
    if store.settings.quality.qualification:
        standing = [d for d in standing if d.annotator in trust.qualified]
    standing = [d for d in standing if not trust.holds(d.annotator, d.answered_at)]
    newest = sorted(standing, key=lambda d: (d.answered_at, d.id))
    return {int(d.mask_id or 0): d for d in newest}
