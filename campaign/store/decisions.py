"""What the store holds of decisions, which are derived, and of those that the lead made otherwise, which are facts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import func, insert, select, tuple_
from sqlalchemy.orm import Session

from campaign.store import models as m
from campaign.store.sessions import Sessions, portions


class Decisions:
    """Part of `Store`: what was decided of clusters."""

    def __init__(self, sessions: Sessions):
        self._sessions = sessions

    def rows(self, round_number: int | None = None, class_id: int | None = None) -> list[m.Decision]:
        """Decisions by round, class and time."""
        query = select(m.Decision).order_by(m.Decision.round, m.Decision.class_id, m.Decision.decided_at)
        if round_number is not None:
            query = query.where(m.Decision.round == round_number)
        if class_id is not None:
            query = query.where(m.Decision.class_id == class_id)
        with self._sessions() as session:
            return list(session.scalars(query))

    def of_clusters(self, round_number: int, class_id: int, clusters: Collection[int]) -> dict[int, m.Decision]:
        """{cluster: decision} of those of these clusters that are decided."""
        where = (m.Decision.round == round_number, m.Decision.class_id == class_id)
        with self._sessions() as session:
            return {
                row.cluster: row
                for part in portions(sorted(clusters))
                for row in session.scalars(select(m.Decision).where(*where, m.Decision.cluster.in_(part)))
            }

    def largest(
        self, round_number: int, class_id: int, most: int, after: int = 0, kind: str | None = None,
        asked: bool | None = None,
    ) -> list[m.Decision]:  # fmt: skip
        """At most so many decisions of a class, the largest clusters first, without the first `after`.

        Of one kind, or all; of clusters that were asked about, of those decided without a question, or both.
        """
        query = select(m.Decision).where(m.Decision.round == round_number, m.Decision.class_id == class_id)
        if kind is not None:
            query = query.where(m.Decision.kind == str(kind))
        if asked is not None:
            query = query.where(m.Decision.asked > 0 if asked else m.Decision.asked == 0)
        query = query.order_by(m.Decision.size.desc(), m.Decision.cluster).offset(after).limit(most)
        with self._sessions() as session:
            return list(session.scalars(query))

    def counts(self) -> list[tuple[int, int, str, int, int]]:
        """(round, class, kind, decisions, masks in them) of every kind of decision that there is."""
        columns = m.Decision.round, m.Decision.class_id, m.Decision.kind
        query = select(*columns, func.count(), func.sum(m.Decision.size)).group_by(*columns)
        with self._sessions() as session:
            return [(r, c, k, n, int(size)) for r, c, k, n, size in session.execute(query)]

    def stream(self, portion: int) -> Iterator[m.Decision]:
        """All decisions by round, class and cluster, so many read at a time, no transaction open in between."""
        key = tuple_(m.Decision.round, m.Decision.class_id, m.Decision.cluster)
        query = select(m.Decision).order_by(m.Decision.round, m.Decision.class_id, m.Decision.cluster).limit(portion)
        last: m.Decision | None = None
        while True:
            after = query if last is None else query.where(key > (last.round, last.class_id, last.cluster))
            with self._sessions() as session:
                rows = list(session.scalars(after))
            yield from rows
            if len(rows) < portion:
                return
            last = rows[-1]

    def unseen(self) -> dict[tuple[int, int], int]:
        """{(round, class): decisions that were made without a question}."""
        columns = m.Decision.round, m.Decision.class_id
        query = select(*columns, func.count()).where(m.Decision.asked == 0).group_by(*columns)
        with self._sessions() as session:
            return {(r, c): n for r, c, n in session.execute(query)}

    def of_kind(self, round_number: int, kind: str) -> list[tuple[int, int, int, int, int]]:
        """(class, cluster, masks, asked, yes) of the decisions of a kind in a round, by class."""
        columns = m.Decision.class_id, m.Decision.cluster, m.Decision.size, m.Decision.asked, m.Decision.yes
        query = select(*columns).where(m.Decision.round == round_number, m.Decision.kind == str(kind))
        with self._sessions() as session:
            return [
                (c, cluster, n, asked, yes) for c, cluster, n, asked, yes in session.execute(query.order_by(columns[0]))
            ]

    def evidence(self, kind: str) -> dict[tuple[int, int, int], tuple[int, float | None, datetime]]:
        """{(round, class, cluster): (yes, quality, when)} of the decisions of a kind."""
        columns = m.Decision.round, m.Decision.class_id, m.Decision.cluster
        query = select(*columns, m.Decision.yes, m.Decision.quality, m.Decision.decided_at)
        with self._sessions() as session:
            rows = session.execute(query.where(m.Decision.kind == str(kind)))
            return {(r, c, cluster): (yes, quality, at) for r, c, cluster, yes, quality, at in rows}


def replace_decisions(session: Session, round_number: int, class_id: int, rows: Iterable[Mapping[str, Any]]) -> None:
    """Makes `rows` the decisions of a class. A decision that stays as it was keeps its time."""
    fresh = {r["cluster"]: dict(r) for r in rows}
    where = (m.Decision.round == round_number, m.Decision.class_id == class_id)
    for old in session.scalars(select(m.Decision).where(*where)):
        row = fresh.pop(old.cluster, None)
        if row is None:
            session.delete(old)
        elif any(getattr(old, name) != value for name, value in row.items()):
            for name, value in row.items():
                setattr(old, name, value)
            old.decided_at = m.now()
    add_decisions(session, round_number, class_id, fresh.values())


def add_decisions(session: Session, round_number: int, class_id: int, rows: Iterable[Mapping[str, Any]]) -> None:
    """Adds decisions of clusters that had none."""
    at = m.now()
    values = [{"round": round_number, "class_id": class_id, "decided_at": at, **row} for row in rows]
    if values:
        session.execute(insert(m.Decision), values)


class Overrides:
    """Part of `Store`: decisions that the lead made instead of the policy."""

    def __init__(self, sessions: Sessions):
        self._sessions = sessions

    def add(self, round_number: int, class_id: int, cluster: int, kind: str | None) -> None:
        """Adds the fact that the lead decides a cluster otherwise; `kind` None takes an earlier one back."""
        with self._sessions() as session:
            value = None if kind is None else str(kind)
            session.add(m.Override(round=round_number, class_id=class_id, cluster=cluster, kind=value))

    def rows(self, after: int = 0) -> list[m.Override]:
        """Every override ever made, oldest first; those with an id above `after`."""
        with self._sessions() as session:
            return list(session.scalars(select(m.Override).where(m.Override.id > after).order_by(m.Override.id)))

    def standing(self, round_number: int, class_id: int) -> dict[int, str]:
        """{cluster: kind} of the overrides that stand in a class's tree."""
        query = select(m.Override).where(m.Override.round == round_number, m.Override.class_id == class_id)
        with self._sessions() as session:
            newest = {row.cluster: row.kind for row in session.scalars(query.order_by(m.Override.id))}
        return {cluster: kind for cluster, kind in newest.items() if kind is not None}
