"""The masks that decisions, answers and corrections bring: of a round, and of the campaign as it stands."""

from __future__ import annotations

import numpy as np

from campaign.dataset.propagation import PropagatedRows, drop_duplicates, propagated_rows
from campaign.derived.answers import counted_verdicts
from campaign.derived.clicks import edited_rules
from campaign.derived.corrections import counted_corrections
from campaign.derived.promises import standing
from campaign.derived.selection import round_selection
from campaign.records.dataset_masks import VOTED_RULE, DatasetMasks, likely_rule
from campaign.records.stage import Stage
from campaign.records.verdict import Verdict
from campaign.search.policies.overridden import LEAD_RULE
from campaign.store import Store
from campaign.store.drawings import CORRECTED, NOTHING
from ml_backend.mask_ids import drawn_id, is_drawn, round_of


def final_masks(store: Store) -> DatasetMasks:
    """The dataset as it stands: every ended round's masks, and those of the running round decided so far.

    Where a promise of precision was begun it is exactly the set that this speaks of. Otherwise a mask that the answers
    since then, an audit's too, no longer confirm is left out, and of masks of several rounds that show the same object
    the earlier one stays.
    """
    promised = standing(store)
    if promised is not None:
        return chosen_masks(store, promised.mask_id, promised.voted, promised.chance)
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
    if store.settings.search.policy == "target":
        return _obtained_for_target(store, round_number)
    row = store.rounds.get(round_number)
    voted = counted_verdicts(store)
    taken: list[tuple[PropagatedRows, np.ndarray]] = []
    for entry in store.trees.rows(round_number):
        if not entry.masks:
            continue
        tree, mask_ids = store.trees.read(round_number, entry.class_id)
        rows = propagated_rows(mask_ids, tree, store.decisions.rows(round_number, entry.class_id), voted)
        taken.append((rows, mask_ids[rows.row]))
    # Of all classes at once, so that every shard is read once.
    predictions = store.masks.read(np.concatenate([ids for _, ids in taken]) if taken else [])
    ends = np.cumsum([len(ids) for _, ids in taken])
    parts = [
        rows.of(predictions.select(slice(end - len(ids), end)), round_number, row.model_version or "")
        for (rows, ids), end in zip(taken, ends.tolist(), strict=True)
    ]
    masks = corrected(store, DatasetMasks.concatenate(parts), round_number)
    return drop_duplicates(masks, store.settings.rounds.dedupe_iou)


def _obtained_for_target(store: Store, round_number: int) -> DatasetMasks:
    """What is chosen over all masks of a round; in the round of a promise, what that speaks of."""
    promised = standing(store)
    if promised is not None and promised.attempt.round_number == round_number:
        masks = chosen_masks(store, promised.mask_id, promised.voted, promised.chance)
        return masks.select(masks.round == round_number)
    chosen = round_selection(store, round_number)
    rows = chosen.delivered
    voted = chosen.verdict[rows] == Verdict.YES
    chance = np.where(chosen.accepted[rows] & ~voted, np.nan, chosen.chance[rows])
    masks = chosen_masks(store, chosen.columns.mask_id[rows], voted, chance)
    return drop_duplicates(corrected(store, masks, round_number), store.settings.rounds.dedupe_iou)


def chosen_masks(store: Store, mask_ids: np.ndarray, voted: np.ndarray, chance: np.ndarray) -> DatasetMasks:
    """Masks that were chosen one by one, each with what it rests on: its vote, its chance, a drawing, an order."""
    masks = store.masks.read(mask_ids)
    drawn = is_drawn(masks.mask_id)
    origin = masks.mask_id.copy()
    if drawn.any():
        origin[drawn] = store.drawings.origins(masks.mask_id[drawn])
    versions = {r.number: r.model_version or "" for r in store.rounds.all()}
    rounds, n = round_of(origin), len(masks)
    rule = np.full(n, LEAD_RULE, object)
    likely = ~np.isnan(chance)
    rule[likely] = [likely_rule(p) for p in chance[likely].tolist()]
    rule[voted] = VOTED_RULE
    if drawn.any():
        rule[drawn] = edited_rules(store, masks.mask_id[drawn].tolist(), origin[drawn].tolist())
    names = "mask_id", "image_id", "class_id", "box", "rle", "size", "confidence", "predicted_iou"
    return DatasetMasks(
        **{name: getattr(masks, name) for name in names},
        round=rounds.astype(np.int32),
        cluster=np.full(n, -1, np.int64),
        asked=np.zeros(n, np.int32),
        yes=np.zeros(n, np.int32),
        rule=rule,
        model_version=np.array([versions.get(r, "") for r in rounds.tolist()], object),
        voted=np.asarray(voted, bool),
    )


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
        rule=np.array(edited_rules(store, [i for _, i in drawn], [mask for mask, _ in drawn]), object),
        model_version=np.full(n, version, object),
        voted=np.ones(n, bool),
    )
    kept = masks.select([int(mask) not in corrections for mask in masks.mask_id])
    return DatasetMasks.concatenate([kept, added])
