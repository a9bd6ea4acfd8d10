"""What a campaign may still ask: its budget in questions, hours or money, and what the rest of it would buy."""

from __future__ import annotations

from campaign.derived.answered import answered
from campaign.derived.clicks import correction_times
from campaign.derived.live import live
from campaign.records.page import promise_kind
from campaign.records.stage import Stage
from campaign.search.forecast import Budget, Prospect, forecast
from campaign.search.selection import NONE
from campaign.store import Store
from campaign.store.values import Key
from ml_backend.errors import InputError

MEASURED = 100  # answers from which their own pace says more than the setting does


def questions_asked(store: Store, round_number: int | None = None) -> int:
    """Questions asked so far, gold aside; of one round, or of all. Those that a promise is drawn by are among them."""
    numbers = [r.number for r in store.rounds.all()] if round_number is None else [round_number]
    asked = sum(figures["asked"] for n in numbers for figures in live(store).summaries(n).values())
    drawn = [store.questions.count(kind) for n, kind in promise_kinds(store) if n in numbers]
    return asked + sum(drawn)


def questions_answered(store: Store) -> int:
    """Questions with a verdict that counts, of all rounds."""
    own = sum(f["answered"] for r in store.rounds.all() for f in live(store).summaries(r.number).values())
    return own + drawn_answered(store)


def promise_kinds(store: Store) -> list[tuple[int, str]]:
    """(round, kind) of the pages of every promise that was begun."""
    facts = store.values.get(Key.PROMISE)
    return [(facts["round"], promise_kind(n)) for n in range(1, facts["attempt"] + 1)] if facts else []


def drawn_answered(store: Store) -> int:
    """Questions with a verdict that counts, of those that promises are drawn by."""
    if not promise_kinds(store):
        return 0
    rows = answered(store).rows
    return int(((rows["round"] == 0) & (rows["verdict"] != NONE)).sum())


def questions_allowed(store: Store) -> int | None:
    """The questions that the campaign may ask in all, None for no limit.

    Hours and money become questions at the pace that was measured so far, gold and gaps between pages included, and
    before there is one at `search.seconds_per_answer`. What annotators state of their time is believed within reason.
    Corrections by clicks are paid from the same hours: the share that `rounds.correct` sets aside, else as they come.
    """
    search, share = store.settings.search, store.settings.rounds.correct
    each, worked, answered = search.seconds_per_answer, 0.0, 0
    if search.budget_hours is not None or search.budget_money is not None:
        from campaign.derived.pace import work

        worked, answered = work(store).seconds(each), questions_answered(store)
        if worked > 0 and answered >= MEASURED:
            each = worked / answered
        if not share:
            worked += sum(correction_times(store))
    hours, money = (None if most is None else most * (1 - share) for most in (search.budget_hours, search.budget_money))
    budget = Budget(search.budget_questions, hours, money, each, store.settings.quality.wage_per_hour)
    return budget.as_questions(worked, answered)


def affordable(store: Store) -> int | None:
    """How many questions the campaign may still ask, None for no limit."""
    allowed = questions_allowed(store)
    return None if allowed is None else max(0, allowed - questions_asked(store))


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


def follows(store: Store, round_number: int, masks: int) -> bool:
    """Whether another round should follow one that brought so many masks.

    The loop goes on until `rounds.rounds` are over, a round adds too little (`rounds.least_new`), or the budget is
    spent (Papadopoulos et al., section 3.4).
    """
    settings = store.settings.rounds
    if round_number >= settings.rounds:
        return False
    spent, budget = questions_asked(store), questions_allowed(store)
    enough = masks > 0 and masks >= settings.least_new * store.datasets.count(before=round_number)
    return enough and (budget is None or spent < budget)


def prospects(store: Store, questions: int) -> list[Prospect]:
    """What so many questions more would bring in the running round. Raises InputError where none is at verify."""
    current = store.rounds.newest()
    if current is None or current.stage != Stage.VERIFY:
        got = "no round" if current is None else f"stage {current.stage}"
        raise InputError("forecast", "a round at stage verify", got)
    if store.settings.search.policy == "target":
        return _prospects_for_target(store, current.number, questions)
    searches = {view.class_id: view.search for view in live(store).views(current.number)}
    return forecast(searches, questions, seed=store.settings.seed)


def _prospects_for_target(store: Store, round_number: int, questions: int) -> list[Prospect]:
    """What the questions that are worth most would bring, by the chances of the masks that they are about."""
    import numpy as np

    from campaign.derived.selection import round_selection

    chosen = round_selection(store, round_number)
    rows, gain = chosen.wanted(store.settings.search.price)
    rows, gain = rows[:questions], gain[:questions]
    spread = 1.3 * np.sqrt(np.cumsum(chosen.chance[rows] * (1 - chosen.chance[rows])))
    brought = np.cumsum(gain)
    marks = np.unique(np.linspace(0, len(rows), 11).astype(int)[1:]) - 1 if len(rows) else []
    return [
        Prospect(n + 1, float(brought[n]), max(0.0, float(brought[n] - spread[n])), float(brought[n] + spread[n]))
        for n in marks
    ]
