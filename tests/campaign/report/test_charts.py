from xml.etree import ElementTree

import numpy as np
import pytest

from campaign.report.charts import Mark, Series, line_chart, number, percent, ticks, time_axis


def test_a_range_without_height_is_drawn():
    series = Series("a", 8, np.array([0.0, 1.0]), np.array([1.0, 1.0]))
    assert "nan" not in line_chart([series], label="", x_label="", y_range=(1.0, 1.0))


@pytest.mark.parametrize(
    ("low", "high", "most", "expected"),
    [
        (0, 1, 5, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0, 977, 5, [0, 200, 400, 600, 800]),
        (60, 90, 5, [60, 70, 80, 90]),
        (0.3, 0.7, 2, [0.4, 0.6]),
    ],
)
def test_ticks(low, high, most, expected):
    assert ticks(low, high, most) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("seconds", "unit", "last"),
    [(0.0, "s", 1), (45, "s", 40), (250, "min", 4), (5400, "min", 90), (40_000, "h", 10), (900_000, "days", 10)],
)
def test_time_axis(seconds, unit, last):
    size, name, at = time_axis(seconds)
    assert name == unit
    assert at[-1] == last
    assert len(at) <= 7
    assert at[-1] * size <= max(seconds, size) + 1e-9


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (7, "7"), (0.25, "0.25"), (1200, "1,200"), (45_000, "45k"), (2_400_000, "2.4M")]
)
def test_number(value, text):
    assert number(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.925, "92.5 %"), (1.0, "100 %"), (0, "0 %")])
def test_percent(value, text):
    assert percent(value) == text


def drawn(series, **options):
    return ElementTree.fromstring(line_chart(series, label="a <chart>", x_label="x", **options))


def points(svg, name="polyline"):
    return [[tuple(map(float, p.split(","))) for p in e.get("points").split()] for e in svg.iter(name)]


def test_step_holds_a_value_until_the_next():
    svg = drawn([Series("masks", 0, np.array([0.0, 1, 2]), np.array([0.0, 5, 5]), style="step")])
    line = points(svg)[0]
    assert len(line) == 5
    assert line[0][1] == line[1][1] and line[1][0] == line[2][0]


def test_long_series_keep_their_end_and_stay_small():
    x = np.sort(np.random.default_rng(0).random(50_000))
    svg = drawn([Series("masks", 0, x, np.cumsum(x))])
    line = points(svg)[0]
    assert len(line) <= 240
    end = next(svg.iter("circle"))
    assert (float(end.get("cx")), float(end.get("cy"))) == line[-1]


def test_points_stay_inside_the_axes():
    low, value, high = np.array([0.2, 0.3]), np.array([0.5, 0.6]), np.array([0.8, 1.0])
    svg = drawn([Series("p", 1, np.array([0.0, 4.0]), value, low, high)], y_range=(0, 1), marks=[Mark(2.0, "K_pa")])
    for line in points(svg) + points(svg, "polygon"):
        assert all(54 <= x <= 406 and 18 <= y <= 210 for x, y in line)


def test_values_that_are_not_numbers_are_left_out():
    svg = drawn([Series("P_h", 2, np.arange(3.0), np.array([0.1, np.nan, 0.3]), style="dots")])
    assert len(list(svg.iter("circle"))) == 2


def test_one_point_and_no_points_are_drawn_too():
    assert len(list(drawn([Series("a", 0, np.array([1.0]), np.array([2.0]))]).iter("circle"))) == 1
    assert points(drawn([Series("a", 0, np.zeros(0), np.zeros(0))])) == []
