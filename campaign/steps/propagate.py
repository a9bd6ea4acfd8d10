"""Propagate: what was decided in a round becomes masks of the dataset."""

from __future__ import annotations

from campaign.derived.dataset import obtained
from campaign.derived.live import live
from campaign.derived.spending import questions_allowed, questions_asked
from campaign.records.stage import Stage
from campaign.store import Store


def finish_round(store: Store, round_number: int) -> None:
    """Stores the dataset of a round, ends it, and starts the next where one should follow.

    The loop goes on until `rounds.rounds` are over, a round adds too little (`rounds.least_new`), or the budget is
    spent (Papadopoulos et al., section 3.4). A round that the lead has opened again meanwhile is left as it is.
    """
    with store.locked():
        if store.rounds.get(round_number).stage != Stage.PROPAGATE:
            return
        live(store).save(also=[round_number])  # an order of the lead may have come after the last turn
        masks = obtained(store, round_number)
        store.datasets.save(round_number, masks)
        settings = store.settings.rounds
        spent, budget = questions_asked(store), questions_allowed(store)
        enough = len(masks) > 0 and len(masks) >= settings.least_new * len(store.datasets.read(before=round_number))
        follow = round_number < settings.rounds and enough and (budget is None or spent < budget)
        store.rounds.end(round_number, {"masks": len(masks), "questions": spent}, follow)
