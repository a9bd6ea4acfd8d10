"""The course of a campaign under the policy of a target: noted at the end of every turn after which more was known."""

from __future__ import annotations

from typing import Any

from campaign.derived.delivery import delivered
from campaign.derived.expectation import expectation
from campaign.derived.pace import work
from campaign.derived.recall import is_gold, looked, recall_figures
from campaign.records.course import Point, thinned
from campaign.records.figure import Figure
from campaign.records.page import PageKind
from campaign.records.stage import Stage
from campaign.store import Store

DIGITS = 4  # of what is expected


def note_course(store: Store) -> None:
    """Adds what is known now to the course, where something was answered or changed. Under the campaign's lock.

    Reads what the last turn found delivered and promised, so that is to be saved before.
    """
    known = delivered(store)
    if store.settings.search.policy != "target" or known is None:
        return
    current, promise, last = store.rounds.newest(), known["promise"], store.course.newest()
    if current is None or (promise["attempt"] is None and current.stage not in (Stage.VERIFY, Stage.PROPAGATE)):
        return  # what another round would bring is not known yet
    answers = work(store)
    questions, pace = int(answers.work["shown"].sum()), answers.pace()
    stands = {
        "questions": questions, "masks": known["masks"], "promised": promise["precision_at_least"],
        "attempt": promise["attempt"], "round": current.number, "target": promise["target"],
    }  # fmt: skip
    same = last is not None and all(getattr(last, name) == value for name, value in stands.items())
    recall = _looked(store, last, same, current.stage)
    if last is not None and same and all(getattr(last, name) == value for name, value in recall.items()):
        return  # a turn that brings nothing costs nothing
    timed = pace.total
    # Pages whose time is not known are taken to have gone as fast as the others.
    each = timed / pace.answers if pace.answers and timed else store.settings.search.seconds_per_answer
    figures = expectation(store)
    point = Point(
        seconds=round(timed + each * (questions - pace.answers), 1), precision=_rounded(figures.precision),
        recall=_rounded(figures.recall), **stands, **recall,
    )  # fmt: skip
    store.course.add(point)


def course(store: Store) -> list[dict[str, Any]]:
    """The course for programs, at most some 200 points of it."""
    return [point.as_dict() for point in thinned(store.course.rows())]


def _looked(store: Store, last: Point | None, same: bool, stage: str) -> dict[str, Any]:
    """What people who looked for missing objects tell of recall.

    While a round is verified and nobody looked further, the estimate stays as it was: all masks would have to be read
    to make it anew. A bound stays only where nothing else has moved, `same`.
    """
    if not store.pages.count(PageKind.COMPLETE):
        return {"looked": 0, "recall_looked": None, "recall_promised": None}
    asked = {page.key for page in store.pages.rows(kind=PageKind.COMPLETE) if not is_gold(page)}
    count = len(asked & looked(store).keys())
    if last is not None and last.looked == count and stage == Stage.VERIFY:
        bound = last.recall_promised if same else None
        return {"looked": count, "recall_looked": last.recall_looked, "recall_promised": bound}
    recall = recall_figures(store)
    if recall is None:
        return {"looked": 0, "recall_looked": None, "recall_promised": None}
    return {"looked": count, "recall_looked": recall["estimate"], "recall_promised": recall["bound"]}


def _rounded(figure: Figure | None) -> Figure | None:
    return None if figure is None else Figure(*(round(v, DIGITS) for v in (figure.value, figure.low, figure.high)))
