"""Forecast: what a round is expected to bring, before its first question."""

from __future__ import annotations

from campaign.derived.outlook import FORECAST, forecast_of, is_due, waiting_line, work_out
from campaign.store import Store


def forecast(store: Store, round_number: int) -> None:
    """Stores the forecast among the round's metrics, and says in the log what waits for the lead because of it.

    A forecast that is stored is left as it is.
    """
    if FORECAST in store.rounds.get(round_number).metrics or not is_due(store, round_number):
        return
    store.rounds.update(round_number, metrics={FORECAST: work_out(store, round_number)})
    stored = forecast_of(store)
    if stored is None:
        store.log("no forecast: too little is held out")
        return
    all_ = stored["all"]
    store.log(
        f"forecast: {all_['correct']['low']:.0f} to {all_['correct']['high']:.0f} correct masks for "
        f"{all_['questions']['low']:.0f} to {all_['questions']['high']:.0f} questions"
    )
    if line := waiting_line(store):
        store.log(line)
