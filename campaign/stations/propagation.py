"""Propagate: what was decided in a round becomes masks of the dataset."""

from __future__ import annotations

from campaign.answers import verdicts
from campaign.propagation import DatasetMasks, drop_duplicates, propagate
from campaign.stations.trust import counted_answers
from campaign.store import Store


def obtained(store: Store, round_number: int) -> DatasetMasks:
    """The masks that the decisions and answers of a round bring in, without duplicates among themselves.

    A mask that any answer, an audit's too, votes down is never among them; one voted yes always is.
    """
    row = next(r for r in store.rounds() if r.number == round_number)
    voted = verdicts(counted_answers(store))
    parts: list[DatasetMasks] = []
    for entry in store.trees(round_number):
        if not entry.masks:
            continue
        tree, mask_ids = store.tree(round_number, entry.class_id)
        parts.append(
            propagate(
                store.masks(mask_ids),
                tree,
                store.decisions(round_number, entry.class_id),
                voted,
                round_number=round_number,
                model_version=row.model_version or "",
            )
        )
    return drop_duplicates(DatasetMasks.concatenate(parts), store.settings.rounds.dedupe_iou)


def finish_round(store: Store, round_number: int) -> None:
    """Stores the dataset of a round, ends it, and starts the next where one should follow.

    The loop goes on until `rounds.rounds` are over, a round brings nothing new, or the budget is spent.
    """
    masks = obtained(store, round_number)
    store.save_dataset(round_number, masks)
    settings = store.settings
    spent = store.count_questions("verify")
    budget = settings.search.budget_questions
    follow = round_number < settings.rounds.rounds and len(masks) > 0 and (budget is None or spent < budget)
    store.end_round(round_number, {"masks": len(masks), "questions": spent}, follow)
