"""Replay: decisions and datasets made anew from the facts alone."""

from __future__ import annotations

from campaign.steps.propagate import obtained
from campaign.steps.verify import open_searches, save_decisions
from campaign.store import Store


def replay(store: Store) -> dict[str, int]:
    """Recomputes every decision and the dataset of every ended round from the stored answers.

    Gives how many `decisions` and `masks` there are, and how many of both are not as they were (`changed`).
    """
    with store.locked():
        before = {(d.round, d.class_id, d.cluster): (d.kind, d.rule, d.asked, d.yes) for d in store.decisions.rows()}
        masks_before = set(store.datasets.read().mask_id.tolist())
        store.decisions.forget()
        for row in store.rounds.all():
            for s in open_searches(store, row.number):
                s.search.afford(s.search.questions)
                s.search.step()
                save_decisions(store, row.number, s)
            if row.stage == "done":
                store.datasets.save(row.number, obtained(store, row.number))
        after = {(d.round, d.class_id, d.cluster): (d.kind, d.rule, d.asked, d.yes) for d in store.decisions.rows()}
        masks_after = set(store.datasets.read().mask_id.tolist())
    changed = sum(before.get(k) != after.get(k) for k in before.keys() | after.keys())
    return {
        "decisions": len(after),
        "masks": len(masks_after),
        "changed": changed + len(masks_before ^ masks_after),
    }
