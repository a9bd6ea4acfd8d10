"""What the store holds of the course: a row for every turn after which something else was known than before."""

from __future__ import annotations

from sqlalchemy import select

from campaign.records.course import Point
from campaign.records.figure import Figure
from campaign.store import models as m
from campaign.store.sessions import Sessions

_PLAIN = (
    "round", "attempt", "target", "questions", "seconds", "masks", "promised", "looked", "recall_looked",
    "recall_promised",
)  # fmt: skip


class Points:
    """Part of `Store`: what was known when. Points are added and never rewritten."""

    def __init__(self, sessions: Sessions):
        self._sessions = sessions

    def rows(self) -> list[Point]:
        """All points, oldest first."""
        with self._sessions() as session:
            return [_point(row) for row in session.scalars(select(m.Point).order_by(m.Point.id))]

    def newest(self) -> Point | None:
        """The newest point, None before the first."""
        with self._sessions() as session:
            row = session.scalars(select(m.Point).order_by(m.Point.id.desc()).limit(1)).first()
            return None if row is None else _point(row)

    def add(self, point: Point) -> None:
        """Adds a point."""
        row = m.Point(**{name: getattr(point, name) for name in _PLAIN})
        for name in ("precision", "recall"):
            figure = getattr(point, name)
            values = (None, None, None) if figure is None else (figure.value, figure.low, figure.high)
            for column, value in zip((name, f"{name}_low", f"{name}_high"), values, strict=True):
                setattr(row, column, value)
        with self._sessions() as session:
            session.add(row)


def _point(row: m.Point) -> Point:
    return Point(
        **{name: getattr(row, name) for name in _PLAIN},
        precision=_figure(row.precision, row.precision_low, row.precision_high),
        recall=_figure(row.recall, row.recall_low, row.recall_high),
    )


def _figure(value: float | None, low: float | None, high: float | None) -> Figure | None:
    return None if value is None or low is None or high is None else Figure(value, low, high)
