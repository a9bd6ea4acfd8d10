"""The course of a campaign under the policy of a target: noted at the end of every turn after which more was known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from campaign.derived.delivery import delivered
from campaign.derived.expectation import expectation
from campaign.derived.pace import work
from campaign.derived.recall import recall_figures
from campaign.records.course import Point, thinned
from campaign.records.figure import Figure
from campaign.records.page import PageKind
from campaign.records.stage import Stage
from campaign.store import Store

STEP = 4  # digits of the figures that a change must show in


def note_course(store: Store) -> None:
    """Adds what is known now to the course, where a figure has moved. To be called under the campaign's lock.

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
    timed = pace.seconds + pace.gap_seconds
    # Pages whose time is not known are taken to have gone as fast as the others.
    each = timed / pace.answers if pace.answers and timed else store.settings.search.seconds_per_answer
    figures = expectation(store)
    point = Point(
        questions, round(timed + each * (questions - pace.answers), 1), known["masks"], _rounded(figures.precision),
        promise["precision_at_least"], _rounded(figures.recall), attempt=promise["attempt"], round=current.number,
        target=promise["target"], **_looked(store),
    )  # fmt: skip
    if last is None or replace(point, seconds=last.seconds) != last:
        store.course.add(point)


def course(store: Store) -> list[dict[str, Any]]:
    """The course for programs, at most some 200 points of it."""
    return [point.as_dict() for point in thinned(store.course.rows())]


def _looked(store: Store) -> dict[str, Any]:
    """What people who looked for missing objects tell of recall."""
    if not store.pages.count(PageKind.COMPLETE):
        return {}
    recall = recall_figures(store)
    if recall is None:
        return {}
    return {
        "looked": recall["images_answered"], "recall_looked": recall["estimate"], "recall_promised": recall["bound"],
    }  # fmt: skip


def _rounded(figure: Figure | None) -> Figure | None:
    return None if figure is None else Figure(*(round(v, STEP) for v in (figure.value, figure.low, figure.high)))
