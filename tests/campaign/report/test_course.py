"""The picture of precision and recall against questions and hours."""

from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np

from campaign.records.course import Point
from campaign.records.figure import Figure
from campaign.report.course import ROWS, course_figure, precision_panel, recall_panel, table


def figure(value: float) -> Figure:
    return Figure(value, value - 0.05, value + 0.03)


def a_course() -> list[Point]:
    bounds = [None] * 20 + [0.0, 0.5, 0.85, 0.9, 0.9]
    return [
        Point(
            40 * n, 100.0 * n, 500 + n, figure(0.85 + n / 400), bound, figure(0.4 + n / 100),
            attempt=None if bound is None else 1, target=0.9,
        )
        for n, bound in enumerate(bounds)
    ]  # fmt: skip


def test_the_panel_has_band_bound_target_mark_and_two_scales():
    svg = ElementTree.fromstring(precision_panel(a_course()))
    texts = [e.text for e in svg.iter("text")]
    assert {"target 90 %", "order frozen", "minutes of answering", "questions answered, gold included"} <= set(texts)
    assert len(list(svg.iter("polygon"))) == 1 and len(list(svg.iter("polyline"))) == 2
    assert "expected, 90 % interval 91.0 % (86.0 to 94.0); promised at least 90.0 %" in svg.get("aria-label")
    numbers = [float(v) for e in svg.iter("polyline") for p in e.get("points").split() for v in p.split(",")]
    height = float(svg.get("viewBox").split()[3])
    assert all(np.isfinite(numbers)) and all(0 <= y <= height for y in numbers[1::2])


def test_recall_shows_what_people_who_looked_found_and_what_is_certain():
    last = replace(a_course()[-1], looked=60, recall_looked=0.61, recall_promised=0.5)
    panel = recall_panel([*a_course(), last])
    assert "by images looked through 61.0 %" in panel and "promised at least 50.0 %" in panel
    assert "looked" not in recall_panel(a_course())


def test_it_can_be_read_without_the_picture_and_without_scripts():
    page = str(course_figure(a_course()))
    assert "<script" not in page and " style=" not in page and "onclick" not in page
    assert page.count('role="img"') == 2
    rows = re.findall("<tr>(.*?)</tr>", page.split("<tbody>")[1], re.S)
    assert len(rows) == ROWS
    assert [re.sub("<[^>]+>", "|", rows[-1]).split("||")[i].strip("|") for i in (0, 3, 4)] == [
        "960", "91.0 % (86.0 to 94.0)", "90.0 %",
    ]  # fmt: skip
    assert table(a_course())[0][:3] == ("0", "0.0", "500")


def test_nothing_is_drawn_of_nothing():
    assert course_figure([]) is None
    assert course_figure(a_course()[:1]) is None
    assert course_figure([replace(p, precision=None) for p in a_course()]) is None


def test_a_course_of_thousands_of_turns_is_no_large_page_and_counts_that_fall_do_no_harm():
    course = [replace(p, questions=n, seconds=2.0 * n) for n, p in enumerate(a_course() * 400)]
    assert len(str(course_figure(course))) < 60_000
    back = [*a_course(), replace(a_course()[-1], questions=900, seconds=2000.0)]
    assert "nan" not in str(course_figure(back))
