"""Replay: views, decisions and datasets made anew from the facts alone."""

from __future__ import annotations

from campaign.derived.dataset import obtained
from campaign.derived.duplicates import duplicates
from campaign.derived.live import forget, live
from campaign.records.stage import Stage
from campaign.steps.verify import save_views
from campaign.store import Store


def replay(store: Store) -> dict[str, int]:
    """Drops every view and decision, and works them and the dataset of every ended round out anew from the facts.

    Returns how many `decisions` and `masks` there are, and how many of both are not as they were (`changed`).
    """
    with store.locked():
        before = {(d.round, d.class_id, d.cluster): (d.kind, d.rule, d.asked, d.yes) for d in store.decisions.rows()}
        masks_before = set(store.datasets.read().mask_id.tolist())
        forget(store)
        rounds = store.rounds.all()
        if any(row.stage not in (Stage.TRAIN, Stage.DETECT) for row in rounds):  # all images have been looked at
            duplicates(store)
        views = live(store)
        for row in rounds:
            views.views(row.number)
        views.save(also=[row.number for row in rounds])
        for row in rounds:
            if row.stage == Stage.DONE:
                store.datasets.save(row.number, obtained(store, row.number))
        save_views(store)
        after = {(d.round, d.class_id, d.cluster): (d.kind, d.rule, d.asked, d.yes) for d in store.decisions.rows()}
        masks_after = set(store.datasets.read().mask_id.tolist())
    changed = sum(before.get(k) != after.get(k) for k in before.keys() | after.keys())
    return {
        "decisions": len(after),
        "masks": len(masks_after),
        "changed": changed + len(masks_before ^ masks_after),
    }
