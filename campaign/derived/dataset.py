"""The masks that decisions, answers and corrections bring: of a round, and of the campaign as it stands.

There may be more of them than fit memory: they are listed by their numbers, and read in pieces.
"""

from __future__ import annotations

import numpy as np

from campaign.dataset.listed import ListedMasks
from campaign.dataset.propagation import PropagatedRows, propagated_rows
from campaign.derived.answers import counted_verdicts
from campaign.derived.clicks import edited_rules
from campaign.derived.corrections import counted_corrections
from campaign.derived.live import steady
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
    """The dataset as it stands, see `standing_masks`, all of it in memory."""
    return standing_masks(store).read()


def standing_masks(store: Store) -> ListedMasks:
    """The dataset as it stands: every ended round's masks, and those of the running round decided so far; by mask id.

    Where a promise of precision was begun it is exactly the set that this speaks of. Otherwise a mask that the answers
    since then, an audit's too, no longer confirm is left out, and of masks of several rounds that show the same object
    the earlier one stays.
    """
    promised = standing(store)
    if promised is not None:
        return _chosen(store, promised.mask_id, promised.voted, promised.chance)
    parts = store.datasets.listed()
    current = store.rounds.newest()
    if current is not None and current.stage in (Stage.VERIFY, Stage.PROPAGATE):
        parts.append(obtained(store, current.number))
    masks = ListedMasks.concatenate(parts).without_duplicates(store.settings.rounds.dedupe_iou)
    down = [mask for mask, verdict in counted_verdicts(store).items() if verdict != Verdict.YES]
    return masks.select(~np.isin(masks.mask_id, down)) if down else masks


def obtained(store: Store, round_number: int) -> ListedMasks:
    """The masks that the decisions and answers of a round bring in, without duplicates among themselves; by mask id.

    A mask that any answer, an audit's too, votes down is never among them; one voted yes always is.
    """
    if store.settings.search.policy == "target":
        return _obtained_for_target(store, round_number)
    return steady(store, lambda: _obtained_by_cluster(store, round_number))


def _obtained_by_cluster(store: Store, round_number: int) -> ListedMasks:
    row = store.rounds.get(round_number)
    voted = counted_verdicts(store)
    taken: list[PropagatedRows] = []
    ids = [np.zeros(0, np.int64)]
    for entry in store.trees.rows(round_number):
        if not entry.masks:
            continue
        tree, mask_ids = store.trees.read(round_number, entry.class_id, entry.generation)
        taken.append(propagated_rows(mask_ids, tree, store.decisions.rows(round_number, entry.class_id), voted))
        ids.append(mask_ids[taken[-1].row])
    mask_ids, whole = np.concatenate(ids), PropagatedRows.concatenate(taken)

    def fetch(rows: np.ndarray) -> DatasetMasks:
        masks = store.masks.read(mask_ids[rows])
        return whole.select(rows).of(masks, round_number, row.model_version or "")

    rounds: np.ndarray = np.full(len(mask_ids), round_number, np.int32)
    masks = ListedMasks(mask_ids, **store.masks.outline(mask_ids), round=rounds, voted=whole.voted, fetch=fetch)
    return _with_corrections(store, masks, round_number).without_duplicates(store.settings.rounds.dedupe_iou)


def _obtained_for_target(store: Store, round_number: int) -> ListedMasks:
    """What is chosen over all masks of a round; in the round of a promise, what that speaks of."""
    promised = standing(store)
    if promised is not None and promised.attempt.round_number == round_number:
        masks = _chosen(store, promised.mask_id, promised.voted, promised.chance)
        return masks.select(masks.round == round_number)
    chosen = round_selection(store, round_number)
    rows = chosen.delivered
    voted = chosen.verdict[rows] == Verdict.YES
    chance = np.where(chosen.accepted[rows] & ~voted, np.nan, chosen.chance[rows])
    masks = _chosen(store, chosen.columns.mask_id[rows], voted, chance)
    return _with_corrections(store, masks, round_number).without_duplicates(store.settings.rounds.dedupe_iou)


def _chosen(store: Store, mask_ids: np.ndarray, voted: np.ndarray, chance: np.ndarray) -> ListedMasks:
    """Masks that were chosen one by one, see `chosen_masks`."""
    voted = np.asarray(voted, bool)
    return ListedMasks(
        mask_ids, **store.masks.outline(mask_ids), round=round_of(_origins(store, mask_ids)).astype(np.int32),
        voted=voted, fetch=lambda rows: chosen_masks(store, mask_ids[rows], voted[rows], chance[rows]),
    )  # fmt: skip


def _origins(store: Store, mask_ids: np.ndarray) -> np.ndarray:
    """The predictions that these masks are, or that they were before somebody drew them anew, (n,) int64."""
    drawn = is_drawn(mask_ids)
    if not drawn.any():
        return mask_ids
    origins = mask_ids.copy()
    origins[drawn] = store.drawings.origins(mask_ids[drawn])
    return origins


def chosen_masks(store: Store, mask_ids: np.ndarray, voted: np.ndarray, chance: np.ndarray) -> DatasetMasks:
    """Masks that were chosen one by one, each with what it rests on: its vote, its chance, a drawing, an order."""
    masks = store.masks.read(mask_ids)
    drawn, origin = is_drawn(masks.mask_id), _origins(store, masks.mask_id)
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


def _with_corrections(store: Store, masks: ListedMasks, round_number: int) -> ListedMasks:
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
    gone = np.isin(masks.mask_id, list(corrections))
    drawn = [(mask, drawn_id(d.id)) for mask, d in sorted(corrections.items()) if d.state == CORRECTED]
    return ListedMasks.concatenate(
        [masks.select(~gone), ListedMasks.of(_drawn(store, masks.read(gone), drawn, round_number))]
    )


def _drawn(store: Store, before: DatasetMasks, drawn: list[tuple[int, int]], round_number: int) -> DatasetMasks:
    """Drawn masks, given as (what each was, its id), with the evidence of those that were in the dataset `before`."""
    row_of = {int(mask): row for row, mask in enumerate(before.mask_id)}
    new, rows = store.masks.read([i for _, i in drawn]), [row_of.get(mask) for mask, _ in drawn]

    def known(column: np.ndarray, otherwise: int) -> np.ndarray:
        return np.array([otherwise if row is None else column[row] for row in rows], column.dtype)

    n, names = len(new), ("mask_id", "image_id", "class_id", "box", "rle", "size", "confidence", "predicted_iou")
    return DatasetMasks(
        **{name: getattr(new, name) for name in names},
        round=np.full(n, round_number, np.int32),
        cluster=known(before.cluster, -1),
        asked=known(before.asked, 0),
        yes=known(before.yes, 0),
        rule=np.array(edited_rules(store, [i for _, i in drawn], [mask for mask, _ in drawn]), object),
        model_version=np.full(n, store.rounds.get(round_number).model_version or "", object),
        voted=np.ones(n, bool),
    )
