"""Propagate: what was decided in a round becomes masks of the dataset."""

from __future__ import annotations

from campaign.derived.dataset import obtained
from campaign.derived.live import live
from campaign.derived.promises import newest_attempt
from campaign.derived.spending import follows, questions_asked
from campaign.records.stage import Stage
from campaign.store import Store


def finish_round(store: Store, round_number: int) -> None:
    """Stores the dataset of a round, ends it, and starts the next where one should follow (`follows`).

    A round that the lead has opened again meanwhile is left as it is. One that is the last after all, by what came
    after its last turn, goes back to be asked for its promise.
    """
    with store.locked():
        if store.rounds.get(round_number).stage != Stage.PROPAGATE:
            return
        live(store).save(also=[round_number])  # an order of the lead may have come after the last turn
        masks = obtained(store, round_number)
        promised = newest_attempt(store) is not None
        follow = not promised and follows(store, round_number, len(masks))
        if store.settings.search.policy == "target" and not promised and not follow:
            store.rounds.update(round_number, stage=Stage.VERIFY)
            return
        store.datasets.save(round_number, masks)
        store.rounds.end(round_number, {"masks": len(masks), "questions": questions_asked(store)}, follow)
