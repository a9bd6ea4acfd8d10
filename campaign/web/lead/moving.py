"""What moves as answers come, as charts drawn on the server, each with its table: answers, masks, pace of annotators.

Precision and recall have a figure of their own (`campaign.report.course`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from campaign.derived.pace import WorkView
from campaign.derived.team import Team
from campaign.records.course import Point, thinned
from campaign.report.charts import Series, line_chart, number, time_axis

ROWS = 12  # of a table
PEOPLE = 6  # annotators with a line of their own, those with most answers
BINS = 16  # of the time in which somebody worked, for the pace
IDLE = 3600.0  # seconds without an answer after which the clock of the charts stands still


@dataclass(frozen=True)
class Chart:
    """A chart with a title, how it stands, the lines of its legend, and the same in numbers."""

    title: str
    stands: str
    svg: Markup
    legend: tuple[tuple[int, str], ...]
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def moving_charts(work: WorkView, team: Team, course: Sequence[Point]) -> list[Chart]:
    """The charts of a campaign as it stands; none of what is not known yet."""
    rows = work.believed()
    rows = rows[~np.isnan(rows["time"])]
    rows = rows[np.argsort(rows["time"], kind="stable")]
    charts = [_questions(rows)] if len(rows) > 1 else []
    points = [p for p in thinned(course) if p.questions > 0]
    if len(points) > 1:
        charts.append(_masks(points))
    pace = _pace(rows, work.users, team)
    return charts + ([pace] if pace else [])


def _clock(times: np.ndarray) -> np.ndarray:
    """Seconds since the first, without the time in which nobody answered: nights would be most of the picture."""
    return np.cumsum(np.minimum(np.diff(times, prepend=times[:1]), IDLE))


def _questions(rows: np.ndarray) -> Chart:
    clock, total = _clock(rows["time"]), np.cumsum(rows["questions"])
    unit, name, ticks = time_axis(float(clock[-1]))
    x = clock / unit
    svg = line_chart(
        [Series("answers", 0, x, total.astype(float), style="step")], label=f"answers over time: {total[-1]:,}",
        x_label=f"time in which somebody answered, {name}", x_range=(0.0, max(float(x[-1]), 1e-9)), x_ticks=ticks,
    )  # fmt: skip
    table = tuple((f"{x[i]:.3g}", f"{total[i]:,}") for i in _some(len(rows)))
    return Chart("Answers", f"{total[-1]:,}", svg, (), (name, "answers"), table)


def _masks(points: Sequence[Point]) -> Chart:
    x, y = (np.array([getattr(p, name) for p in points], float) for name in ("questions", "masks"))
    svg = line_chart(
        [Series("masks", 0, x, y)], label=f"masks by questions answered: {points[-1].masks:,}",
        x_label="questions answered, gold included", x_range=(0.0, max(float(x.max()), 1.0)),
    )  # fmt: skip
    table = tuple((f"{points[i].questions:,}", f"{points[i].masks:,}") for i in _some(len(points)))
    stands = f"{points[-1].masks:,} would be delivered"
    return Chart("Masks", stands, svg, (), ("questions", "masks"), table)


def _pace(rows: np.ndarray, users: Sequence[str], team: Team) -> Chart | None:
    """Seconds per answer of the busiest annotators, in equal parts of the time in which somebody worked."""
    rows = rows[~np.isnan(rows["seconds"]) & (rows["shown"] > 0)]
    if len(rows) < 2:
        return None
    clock = _clock(rows["time"])
    place = np.minimum((clock / max(float(clock[-1]), 1e-9) * BINS).astype(int), BINS - 1)
    unit, name, ticks = time_axis(float(clock[-1]))
    series, legend, table = [], [], []
    for color, user in enumerate(u for u in team.users[:PEOPLE] if u.user in users):
        own = rows["user"] == users.index(user.user)
        seconds, shown = (np.bincount(place[own], rows[n][own], minlength=BINS) for n in ("seconds", "shown"))
        seen = np.flatnonzero(shown)
        if not len(seen):
            continue
        each = seconds[seen] / shown[seen]
        middle = (seen + 0.5) / BINS * clock[-1] / unit
        series.append(Series(user.name, color, middle, each))
        legend.append((color, user.name))
        table.append((user.name, f"{each[0]:.2f}", f"{each[-1]:.2f}", f"{float(seconds.sum() / shown.sum()):.2f}"))
    if not series:
        return None
    svg = line_chart(
        series, label="seconds per answer over time: " + "; ".join(f"{row[0]} {row[3]}" for row in table),
        x_label=f"time in which somebody answered, {name}", x_range=(0.0, max(float(clock[-1] / unit), 1e-9)),
        x_ticks=ticks,
    )  # fmt: skip
    total = f"{number(float(rows['seconds'].sum() / rows['shown'].sum()))} s per answer"
    return Chart("Pace", total, svg, tuple(legend), ("annotator", "first, s", "last, s", "all, s"), tuple(table))


def _some(n: int) -> list[int]:
    return np.unique(np.linspace(0, n - 1, min(ROWS, n)).round().astype(int)).tolist()
