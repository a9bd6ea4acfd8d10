"""What a campaign may still ask: its budget in questions, hours or money, and what the rest of it would buy."""

from __future__ import annotations

from campaign.search.forecast import Budget, Prospect, forecast
from campaign.store import Store
from ml_backend.errors import InputError

MEASURED = 100  # answers from which their own pace says more than the setting does


def questions_allowed(store: Store) -> int | None:
    """The questions that the campaign may ask in all, None for no limit.

    Hours and money become questions at the pace that was measured so far, gold and gaps between pages included, and
    before there is one at `search.seconds_per_answer`.
    """
    search = store.settings.search
    each, worked, answered = search.seconds_per_answer, 0.0, 0
    if search.budget_hours is not None or search.budget_money is not None:
        from campaign.derived.team import page_answers
        from campaign.quality.measures import pace

        measured = pace(page for pages in page_answers(store).values() for page in pages)
        worked = measured.seconds + measured.gap_seconds
        answered = len({a.mask_id for a in store.answers.rows()} & {q.mask_id for q, _ in store.questions.rows(kind="verify")})
        if worked > 0 and answered >= MEASURED:
            each = worked / answered
    budget = Budget(
        search.budget_questions, search.budget_hours, search.budget_money, each, store.settings.quality.wage_per_hour
    )
    return budget.as_questions(worked, answered)


def prospects(store: Store, questions: int) -> list[Prospect]:
    """What so many questions more would bring in the running round. Raises InputError where none is at verify."""
    from campaign.steps.verify import open_searches

    current = store.rounds.newest()
    if current is None or current.stage != "verify":
        got = "no round" if current is None else f"stage {current.stage}"
        raise InputError("forecast", "a round at stage verify", got)
    searches = {s.class_id: s.search for s in open_searches(store, current.number)}
    return forecast(searches, questions, seed=store.settings.seed)
