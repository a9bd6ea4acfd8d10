"""Points of a course, thinned and as programs see them."""

from __future__ import annotations

import json

from campaign.records.course import Point, frozen_at, thinned
from campaign.records.figure import Figure


def points(count: int, frozen: int) -> list[Point]:
    return [
        Point(10 * n, 20.0 * n, n, Figure(0.9, 0.8, 0.95), attempt=1 if n >= frozen else None) for n in range(count)
    ]


def test_a_long_course_keeps_its_ends_and_where_it_was_frozen():
    every = points(5000, frozen=3333)
    few = thinned(every, 100)
    assert 80 <= len(few) <= 104
    assert few[0] == every[0] and few[-1] == every[-1] and every[3333] in few
    assert [p.questions for p in few] == sorted(p.questions for p in few)
    assert frozen_at(few) == frozen_at(every) == [every[3333]]
    assert thinned(every[:50], 100) == every[:50]


def test_points_at_the_same_question_are_no_division_by_nothing():
    same = [Point(0, 0.0, n) for n in range(500)]
    assert 2 <= len(thinned(same, 100)) <= 100


def test_programs_see_hours_and_figures_and_the_truth_where_it_is_known():
    point = Point(30, 5400.0, 7, Figure(0.9, 0.85, 0.123456789), promised=0.8, attempt=2, round=1)
    shown = json.loads(json.dumps(point.as_dict()))
    assert shown["hours"] == 1.5 and shown["precision"] == {"value": 0.9, "low": 0.85, "high": 0.12346}
    assert shown["recall"] is None and shown["attempt"] == 2 and "true_recall" not in shown
    assert Point(0, 0, 0, true_recall=0.5).as_dict()["true_recall"] == 0.5
