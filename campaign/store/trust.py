"""What the store holds so that answers and decisions can be trusted: gold, overrides, people's names."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from campaign.store import models as m

PEOPLE, EXAMPLES = "people", "examples"
QUALIFY = "qualify"  # kind of the pages of a qualification test


class TrustRecords:
    """Part of `Store`: gold among the questions, decisions overridden by the lead, names of the annotators."""

    def session(self) -> AbstractContextManager[Session]:
        """See `Store.session`."""
        raise NotImplementedError

    def get_meta(self, name: str) -> dict[str, Any] | None:
        """See `Store.get_meta`."""
        raise NotImplementedError

    def set_meta(self, name: str, value: dict[str, Any]) -> None:
        """See `Store.set_meta`."""
        raise NotImplementedError

    def gold_questions(self, kind: str | None = None) -> list[tuple[m.Question, m.Page]]:
        """Gold with the pages it is hidden on, by page; of one kind of page, or all."""
        query = select(m.Question, m.Page).join(m.Page).where(m.Question.gold.is_not(None))
        query = query.order_by(m.Page.created_at, m.Page.key, m.Question.mask_id)
        with self.session() as session:
            return [(q, p) for q, p in session.execute(query if kind is None else query.where(m.Page.kind == kind))]

    def add_override(self, round_number: int, class_id: int, cluster: int, kind: str | None) -> None:
        """Adds the fact that the lead decides a cluster otherwise; `kind` None takes an earlier one back."""
        with self.session() as session:
            session.add(m.Override(round=round_number, class_id=class_id, cluster=cluster, kind=kind))

    def override_log(self) -> list[m.Override]:
        """Every override ever made, oldest first."""
        with self.session() as session:
            return list(session.scalars(select(m.Override).order_by(m.Override.id)))

    def overrides(self, round_number: int, class_id: int) -> dict[int, str]:
        """{cluster: kind} of the overrides that stand in a class's tree."""
        query = select(m.Override).where(m.Override.round == round_number, m.Override.class_id == class_id)
        with self.session() as session:
            newest = {row.cluster: row.kind for row in session.scalars(query.order_by(m.Override.id))}
        return {cluster: kind for cluster, kind in newest.items() if kind is not None}

    def annotators(self) -> set[str]:
        """Everyone who has ever answered."""
        with self.session() as session:
            return set(session.scalars(select(m.Answer.annotator).distinct()))

    def answers_on(self, mask_id: int) -> list[m.Answer]:
        """The facts about one mask, in the order they were read."""
        with self.session() as session:
            return list(session.scalars(select(m.Answer).where(m.Answer.mask_id == mask_id).order_by(m.Answer.id)))

    def examples(self) -> dict[int, dict[str, list[int]]]:
        """{class: {"good": mask ids, "bad": mask ids}} of the masks that instructions show as examples."""
        return {int(class_id): found for class_id, found in (self.get_meta(EXAMPLES) or {}).items()}

    def people(self) -> dict[str, str]:
        """{annotator: email} as far as Label Studio told."""
        return dict(self.get_meta(PEOPLE) or {})

    def save_people(self, names: dict[int, str]) -> None:
        """Adds names of annotators by their id in Label Studio."""
        old = self.people()
        new = old | {str(i): email for i, email in names.items()}
        if new != old:
            self.set_meta(PEOPLE, new)
