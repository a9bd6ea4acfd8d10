"""What the store holds of verification: decisions, pages, questions, answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from campaign.store import models as m
from campaign.store.trust import QUALIFY


class QuestionRecords:
    """Part of `Store`: what was asked, what came back, and what was decided on it."""

    def session(self) -> AbstractContextManager[Session]:
        """See `Store.session`."""
        raise NotImplementedError

    def replace_decisions(self, round_number: int, class_id: int, rows: Iterable[dict[str, Any]]) -> None:
        """Makes `rows` the decisions of a class. A decision that stays as it was keeps its time."""
        fresh = {r["cluster"]: r for r in rows}
        key = (m.Decision.round == round_number, m.Decision.class_id == class_id)
        with self.session() as session:
            for old in session.scalars(select(m.Decision).where(*key)):
                row = fresh.get(old.cluster)
                if row is None:
                    session.delete(old)
                elif any(getattr(old, name) != value for name, value in row.items()):
                    for name, value in row.items():
                        setattr(old, name, value)
                    old.decided_at = m.now()
                fresh.pop(old.cluster, None)
            session.add_all(m.Decision(round=round_number, class_id=class_id, **row) for row in fresh.values())

    def decisions(self, round_number: int | None = None, class_id: int | None = None) -> list[m.Decision]:
        """Decisions by round, class and time."""
        query = select(m.Decision).order_by(m.Decision.round, m.Decision.class_id, m.Decision.decided_at)
        if round_number is not None:
            query = query.where(m.Decision.round == round_number)
        if class_id is not None:
            query = query.where(m.Decision.class_id == class_id)
        with self.session() as session:
            return list(session.scalars(query))

    # Questions and answers

    def add_page(
        self,
        key: str,
        round_number: int,
        class_id: int,
        questions: Sequence[tuple[int, int | None]],
        kind: str = "verify",
        gold: Mapping[int, str] | None = None,
        screen: str = "verification",
        place: dict[str, Any] | None = None,
    ) -> None:
        """Stores a page with its (mask id, cluster) questions, once; `gold` are the known verdicts of some."""
        with self.session() as session:
            if session.get(m.Page, key) is None:
                page = m.Page(key=key, round=round_number, class_id=class_id, kind=kind, screen=screen, place=place)
                session.add(page)
                session.flush()
                known = gold or {}
                session.add_all(m.Question(page_key=key, mask_id=i, cluster=c, gold=known.get(i)) for i, c in questions)

    def pages(self, published: bool | None = None, round_number: int | None = None) -> list[m.Page]:
        """Pages by time; published ones, unpublished ones, or both."""
        query = select(m.Page).order_by(m.Page.created_at, m.Page.key)
        if published is not None:
            query = query.where(m.Page.task_id.is_not(None) if published else m.Page.task_id.is_(None))
        if round_number is not None:
            query = query.where(m.Page.round == round_number)
        with self.session() as session:
            return list(session.scalars(query))

    def newest_task(self, screen: str = "verification") -> int:
        """The highest id of a task that a page of that screen's project is known to have; 0 before the first."""
        query = select(func.max(m.Page.task_id)).where(m.Page.kind != QUALIFY, m.Page.screen == screen)
        with self.session() as session:
            return session.scalar(query) or 0

    def mark_published(self, tasks: dict[str, int]) -> None:
        """Notes which task of Label Studio holds which page."""
        with self.session() as session:
            for key, task in tasks.items():
                session.execute(update(m.Page).where(m.Page.key == key).values(task_id=task))

    def unpublish(self, keys: Iterable[str]) -> None:
        """Forgets which tasks hold these pages, so that they are published again."""
        with self.session() as session:
            for key in keys:
                session.execute(update(m.Page).where(m.Page.key == key).values(task_id=None))

    def questions(
        self, round_number: int | None = None, kind: str | None = None, gold: bool = False
    ) -> list[tuple[m.Question, m.Page]]:
        """Questions with their pages, by page; with `gold` also the gold hidden among them."""
        query = select(m.Question, m.Page).join(m.Page).order_by(m.Page.created_at, m.Page.key, m.Question.mask_id)
        if not gold:
            query = query.where(m.Question.gold.is_(None))
        if round_number is not None:
            query = query.where(m.Page.round == round_number)
        if kind is not None:
            query = query.where(m.Page.kind == kind)
        with self.session() as session:
            return [(q, p) for q, p in session.execute(query)]

    def count_questions(self, kind: str | None = None) -> int:
        """How many questions were asked so far, without gold."""
        query = select(func.count()).select_from(m.Question).join(m.Page).where(m.Question.gold.is_(None))
        with self.session() as session:
            return session.scalar(query if kind is None else query.where(m.Page.kind == kind)) or 0

    def add_answers(self, rows: Iterable[dict[str, Any]]) -> int:
        """Adds facts that are not there yet; gives how many were new."""
        new = 0
        with self.session() as session:
            for row in rows:
                same = select(m.Answer.id).filter_by(
                    annotation_id=row["annotation_id"], mask_id=row["mask_id"],
                    answered_at=row["answered_at"], verdict=row["verdict"],
                )  # fmt: skip
                if session.scalar(same) is None:
                    session.add(m.Answer(**row))
                    new += 1
        return new

    def answers(self, page_keys: Iterable[str] | None = None) -> list[m.Answer]:
        """All facts, in the order they were read, or those of some pages."""
        query = select(m.Answer).order_by(m.Answer.id)
        with self.session() as session:
            if page_keys is None:
                return list(session.scalars(query))
            keys = list(page_keys)
            found: list[m.Answer] = []
            for start in range(0, len(keys), 500):
                found += session.scalars(query.where(m.Answer.page_key.in_(keys[start : start + 500])))
            return sorted(found, key=lambda a: a.id)

    def forget_decisions(self) -> None:
        """Drops every decision: they are derived, and `campaign replay` makes them again from the answers."""
        with self.session() as session:
            session.execute(delete(m.Decision))
