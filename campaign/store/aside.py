"""What the store holds of things in Label Studio that no answer was made of: facts, for the lead to look at."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from sqlalchemy import func, insert, select

from campaign.quality.answers import WITHDRAWN
from campaign.records.names import Name
from campaign.store import models as m
from campaign.store.sessions import Sessions, portions


class Reason(Name):
    """Why something was set aside."""

    CHANGED = "changed"  # an annotation under one user's name that another user made or changed
    DOUBLED = "doubled"  # one of several annotations of one user on one page: the newest counts
    LATE = "late"  # a change of one's own annotation after the time for changes: what was said before stands
    FOREIGN = "foreign"  # a task with a page's name that the campaign did not publish
    UNKNOWN = "unknown"  # parts of an annotation that no page offers, or that cannot be read


class Aside:
    """Part of `Store`: what was set aside."""

    def __init__(self, sessions: Sessions):
        self._sessions = sessions

    def add(self, rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Adds facts that are not there yet; returns those that were new."""
        wanted = {_identity(row): row for row in rows}
        table, at = m.SetAside, m.now()
        with self._sessions() as session:
            for part in portions(sorted({row["task_id"] for row in wanted.values()})):
                known = select(table.reason, table.task_id, table.annotation_id, table.at)
                for reason, task, annotation, stamp in session.execute(known.where(table.task_id.in_(part))):
                    wanted.pop((reason, task, annotation, stamp), None)
            if wanted:
                session.execute(insert(table), [{**row, "read_at": at} for row in wanted.values()])
        return list(wanted.values())

    def newest(self, count: int) -> list[m.SetAside]:
        """The newest of them, the newest first."""
        with self._sessions() as session:
            return list(session.scalars(select(m.SetAside).order_by(m.SetAside.id.desc()).limit(count)))

    def changed(self, page_keys: Collection[str]) -> dict[str, set[int]]:
        """{page: annotations on it that were ever set aside because another user made or changed them}."""
        found: dict[str, set[int]] = {}
        query = select(m.SetAside.page_key, m.SetAside.annotation_id).where(m.SetAside.reason == Reason.CHANGED.value)
        with self._sessions() as session:
            for part in portions(sorted(page_keys)):
                for key, annotation in session.execute(query.where(m.SetAside.page_key.in_(part))):
                    found.setdefault(str(key), set()).add(annotation)
        return found

    def counts(self) -> dict[str, int]:
        """How much was set aside for each reason, and as `deleted` how many annotations vanished that had been read."""
        query = select(m.SetAside.reason, func.count()).group_by(m.SetAside.reason)
        gone = select(func.count(m.Answer.annotation_id.distinct())).where(m.Answer.verdict == WITHDRAWN)
        with self._sessions() as session:
            known = {reason: count for reason, count in session.execute(query)}
            deleted = session.scalar(gone) or 0
        return {reason.value: known.get(reason.value, 0) for reason in Reason} | {"deleted": deleted}


def _identity(row: Mapping[str, Any]) -> tuple[str, int, int, str]:
    return str(row["reason"]), row["task_id"], row["annotation_id"], row["at"]
