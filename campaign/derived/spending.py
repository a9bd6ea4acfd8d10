"""What a campaign may still ask: its budget in questions, hours or money, and what the rest of it would buy."""

from __future__ import annotations

from campaign.derived.live import live
from campaign.records.stage import Stage
from campaign.search.forecast import Budget, Prospect, forecast
from campaign.store import Store
from ml_backend.errors import InputError

MEASURED = 100  # answers from which their own pace says more than the setting does


def questions_asked(store: Store, round_number: int | None = None) -> int:
    """Questions asked so far, gold aside; of one round, or of all."""
    numbers = [r.number for r in store.rounds.all()] if round_number is None else [round_number]
    return sum(figures["asked"] for n in numbers for figures in live(store).summaries(n).values())


def questions_answered(store: Store) -> int:
    """Questions with a verdict that counts, of all rounds."""
    return sum(f["answered"] for r in store.rounds.all() for f in live(store).summaries(r.number).values())


def questions_allowed(store: Store) -> int | None:
    """The questions that the campaign may ask in all, None for no limit.

    Hours and money become questions at the pace that was measured so far, gold and gaps between pages included, and
    before there is one at `search.seconds_per_answer`.
    """
    search = store.settings.search
    each, worked, answered = search.seconds_per_answer, 0.0, 0
    if search.budget_hours is not None or search.budget_money is not None:
        from campaign.derived.pace import campaign_pace

        measured = campaign_pace(store)
        worked, answered = measured.seconds + measured.gap_seconds, questions_answered(store)
        if worked > 0 and answered >= MEASURED:
            each = worked / answered
    budget = Budget(
        search.budget_questions, search.budget_hours, search.budget_money, each, store.settings.quality.wage_per_hour
    )
    return budget.as_questions(worked, answered)


def round_budget(store: Store, round_number: int) -> int | None:
    """Questions that a round may still ask, None for no limit.

    What the campaign has left is shared evenly among the rounds to come.
    """
    budget = questions_allowed(store)
    if budget is None:
        return None
    asked = questions_asked(store, round_number)
    before = questions_asked(store) - asked
    rounds_left = max(1, store.settings.rounds.rounds - round_number + 1)
    return max(0, (budget - before) // rounds_left - asked)


def prospects(store: Store, questions: int) -> list[Prospect]:
    """What so many questions more would bring in the running round. Raises InputError where none is at verify."""
    current = store.rounds.newest()
    if current is None or current.stage != Stage.VERIFY:
        got = "no round" if current is None else f"stage {current.stage}"
        raise InputError("forecast", "a round at stage verify", got)
    searches = {view.class_id: view.search for view in live(store).views(current.number)}
    return forecast(searches, questions, seed=store.settings.seed)
