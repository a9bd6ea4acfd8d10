"""Precision and recall, each with its interval, against questions and hours: two panels, a legend and the numbers.

Where the campaign stands is said in words too, so nothing needs the picture, colours or scripts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from campaign.records.course import Point, frozen_at, thinned
from campaign.records.figure import Figure
from campaign.report.charts import Above, Level, Mark, Series, line_chart, percent, ticks

EXPECTED, PROMISED, LOOKED = 0, 1, 8  # colours that are told apart without colour vision: blue, orange, ink
ROWS = 14  # of the table at most
_HOUR = 3600.0


class Legend(NamedTuple):
    """A line of the legend: its colour, what it shows, and how that stands."""

    color: int
    name: str
    stands: str


def course_figure(points: Sequence[Point]) -> Markup | None:
    """The two panels with legend and table, as HTML; None before the first answer or where nothing was expected."""
    points = thinned(points)
    if len(points) < 2 or points[-1].questions <= 0 or all(p.precision is None for p in points):
        return None
    last = points[-1]
    panels = [("Precision", precision_panel(points), _of_precision(last))]
    if any(p.recall is not None or p.recall_looked is not None for p in points):
        panels.append(("Recall", recall_panel(points), _of_recall(last)))
    page = _environment().get_template("course.html").render(panels=panels, last=last, rows=table(points))
    return Markup(page)  # noqa: S704 - the template escapes what it is given


@lru_cache(maxsize=1)
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("campaign.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip


def precision_panel(points: Sequence[Point]) -> Markup:
    """Expected precision with its interval, the promised bound, the target, and where the order was frozen."""
    target = points[-1].target
    series = [_band("expected", [p.precision for p in points], points)]
    series += _steps("promised at least", [p.promised for p in points], points, PROMISED)
    label = f"precision by questions: {_words(_of_precision(points[-1]))}"
    return _panel(points, series, label, [Level(target, f"target {percent(target)}")])


def recall_panel(points: Sequence[Point]) -> Markup:
    """Expected recall with its interval, and what images that people looked through say and prove of it."""
    series = [_band("expected", [p.recall for p in points], points)]
    series += _steps("at least", [p.recall_promised for p in points], points, PROMISED)
    series += _steps("by images looked through", [p.recall_looked for p in points], points, LOOKED)
    return _panel(points, series, f"recall by questions: {_words(_of_recall(points[-1]))}", [])


def table(points: Sequence[Point]) -> list[tuple[str, ...]]:
    """The numbers at some of the points, the first and the last among them."""
    places = np.unique(np.linspace(0, len(points) - 1, min(ROWS, len(points))).round().astype(int))
    return [
        (
            f"{p.questions:,}", f"{p.seconds / _HOUR:.1f}", f"{p.masks:,}", _span(p.precision), _share(p.promised),
            _span(p.recall), _share(p.recall_looked), _share(p.recall_promised),
        )
        for p in (points[i] for i in places.tolist())
    ]  # fmt: skip


def _of_precision(last: Point) -> list[Legend]:
    lines = [Legend(EXPECTED, "expected, 90 % interval", _span(last.precision))]
    if last.promised is not None:
        lines.append(Legend(PROMISED, "promised at least", _share(last.promised)))
    return lines


def _of_recall(last: Point) -> list[Legend]:
    lines = [Legend(EXPECTED, "expected, 90 % interval", _span(last.recall))]
    if last.recall_looked is not None:
        lines.append(Legend(LOOKED, "by images looked through", _share(last.recall_looked)))
    if last.recall_promised is not None:
        lines.append(Legend(PROMISED, "promised at least", _share(last.recall_promised)))
    return lines


def _words(lines: Sequence[Legend]) -> str:
    return "; ".join(f"{line.name} {line.stands}" for line in lines)


def _panel(points: Sequence[Point], series: list[Series], label: str, levels: list[Level]) -> Markup:
    end, (y0, y1) = max(float(p.questions) for p in points), _scale(series, levels)
    frozen = frozen_at(points)
    marks = [Mark(float(p.questions), "order frozen" if n == 0 else str(n + 1)) for n, p in enumerate(frozen)]
    return line_chart(
        [_raised(s, y0) for s in series if len(s.x)], label=label, x_label="questions answered, gold included",
        x_range=(0.0, end), y_range=(y0, y1), y_format=percent, marks=marks, levels=levels, above=_hours(points, end),
    )  # fmt: skip


def _scale(series: Sequence[Series], levels: Sequence[Level]) -> tuple[float, float]:
    """The scale from tenth to tenth: with all of the band and every end in it, and some room."""
    values = [level.y for level in levels]
    for s in (s for s in series if len(s.x)):
        values += [*s.low, *s.high] if s.low is not None and s.high is not None else [float(s.y[-1])]
    low, high = min(values, default=0.5) - 0.02, max(values, default=1.0) + 0.02
    return max(0.0, float(np.floor(low * 10) / 10)), min(1.0, float(np.ceil(high * 10) / 10))


def _raised(s: Series, y0: float) -> Series:
    """Without what lies under the scale: a bound comes in where it first rises above its lower end."""
    if s.color == EXPECTED:
        return s
    above = np.flatnonzero(s.y >= y0)
    first = max(0, int(above[0]) - 1) if len(above) else len(s.y)
    return Series(s.label, s.color, s.x[first:], np.maximum(s.y[first:], y0), style=s.style)


def _hours(points: Sequence[Point], end: float) -> Above:
    """A scale of hours: where the questions stood then."""
    # Who takes an answer back makes the count smaller; the scales only rise.
    x, hours = (np.maximum.accumulate([v(p) for p in points]) for v in (_questions, lambda p: p.seconds / _HOUR))
    unit, name = (hours, "hours") if hours[-1] >= 2 else (hours * 60, "minutes")
    at = ticks(0.0, max(float(unit[-1]), 1e-6), 5)
    keep, first = np.unique(unit, return_index=True)
    return Above(
        [(float(np.interp(v, keep, x[first])), f"{v:g}") for v in at if v > 0 or x[0] == 0], f"{name} of answering"
    )


def _questions(point: Point) -> float:
    return float(point.questions)


def _band(label: str, figures: Sequence[Figure | None], points: Sequence[Point]) -> Series:
    known = [(p.questions, f) for p, f in zip(points, figures, strict=True) if f is not None]
    columns: Any = np.array([(x, f.value, f.low, f.high) for x, f in known], np.float64).reshape(-1, 4).T
    return Series(label, EXPECTED, columns[0], columns[1], columns[2], columns[3])


def _steps(label: str, values: Sequence[float | None], points: Sequence[Point], color: int) -> list[Series]:
    known = [(p.questions, v) for p, v in zip(points, values, strict=True) if v is not None]
    if not known:
        return []
    x, y = np.array(known, np.float64).T
    return [Series(label, color, x, y, style="step")]


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _span(figure: Figure | None) -> str:
    return "–" if figure is None else f"{100 * figure.value:.1f} % ({100 * figure.low:.1f} to {100 * figure.high:.1f})"
