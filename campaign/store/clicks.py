"""What the store holds of corrections by clicks: every step as a fact, and where the server notes its answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import select

from campaign.store import models as m
from campaign.store.sessions import Sessions, portions

# Of the campaign folder; what is in it is no fact and may be lost.
STEPS = Path("clicks") / "steps.sqlite"
# Where a campaign's segmenters lie, each beside the ranking model of its masks; the newest checkpoint answers.
MODELS = Path("models") / "interactive"


class Clicks:
    """Part of `Store`: the steps in which masks were corrected. They are added and never rewritten."""

    def __init__(self, sessions: Sessions):
        self._sessions = sessions

    def add(self, rows: Iterable[dict[str, Any]]) -> int:
        """Adds facts that are not there yet; returns how many were new."""
        new = 0
        with self._sessions() as session:
            for row in rows:
                keys = {name: row[name] for name in ("annotation_id", "answered_at", "number")}
                if session.scalar(select(m.ClickFact.id).filter_by(**keys)) is None:
                    session.add(m.ClickFact(**row))
                    session.flush()
                    new += 1
        return new

    def of_annotations(self, annotations: Sequence[int]) -> dict[tuple[int, str], list[m.ClickFact]]:
        """{(annotation, its time): steps in their order} of these annotations."""
        steps: dict[tuple[int, str], list[m.ClickFact]] = {}
        with self._sessions() as session:
            for part in portions(sorted(set(annotations))):
                query = select(m.ClickFact).where(m.ClickFact.annotation_id.in_(part)).order_by(m.ClickFact.number)
                for row in session.scalars(query):
                    steps.setdefault((row.annotation_id, row.answered_at), []).append(row)
        return steps
