"""What the store holds of rounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import select, update

from campaign.records.stage import Stage
from campaign.store import models as m
from campaign.store.sessions import Sessions

JOINED = "joined"  # among a round's metrics: what joined its trees while it was verified, an entry each time


class Rounds:
    """Part of `Store`: the rounds of the loop and the stage that each has reached."""

    def __init__(self, sessions: Sessions, folder: Path):
        self._sessions, self._folder = sessions, folder

    def all(self) -> list[m.Round]:
        """All rounds, by number."""
        with self._sessions() as session:
            return list(session.scalars(select(m.Round).order_by(m.Round.number)))

    def newest(self) -> m.Round | None:
        """The newest round, or None."""
        with self._sessions() as session:
            return session.scalars(select(m.Round).order_by(m.Round.number.desc()).limit(1)).first()

    def get(self, number: int) -> m.Round:
        """One round. Raises KeyError for an unknown number."""
        with self._sessions() as session:
            row = session.get(m.Round, number)
        if row is None:
            raise KeyError(number)
        return row

    def start(self, number: int, stage: str) -> None:
        """Adds a round where it is not there."""
        with self._sessions() as session:
            if session.get(m.Round, number) is None:
                session.add(m.Round(number=number, stage=Stage(stage).value, metrics={}))

    def update(self, number: int, metrics: dict[str, Any] | None = None, **values: Any) -> None:
        """Sets columns of a round; `metrics` are added to those it has."""
        with self._sessions() as session:
            row = session.get_one(m.Round, number)
            for name, value in values.items():
                setattr(row, name, value.value if isinstance(value, Stage) else value)
            if metrics:
                row.metrics = row.metrics | metrics

    def advance(self, number: int, since: Stage, to: Stage) -> bool:
        """Moves a round from one stage to another; returns whether it did.

        A round that has moved on meanwhile, by another copy of the step, stays where it is.
        """
        with self._sessions() as session:
            moved = update(m.Round).where(m.Round.number == number, m.Round.stage == since.value)
            return bool(session.execute(moved.values(stage=to.value)).rowcount)  # type: ignore[attr-defined]

    def end(self, number: int, metrics: dict[str, Any], follow: bool) -> None:
        """Ends a round and, with `follow`, starts the next: both or neither."""
        with self._sessions() as session:
            row = session.get_one(m.Round, number)
            row.stage, row.ended_at, row.metrics = Stage.DONE.value, m.now(), row.metrics | metrics
            if follow and session.get(m.Round, number + 1) is None:
                session.add(m.Round(number=number + 1, stage=Stage.TRAIN.value, metrics={}))

    def folder(self, number: int) -> Path:
        """Where a round's files lie."""
        return self._folder / "rounds" / f"{number:03d}"
