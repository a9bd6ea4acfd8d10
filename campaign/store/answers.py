"""What the store holds of answers: facts, never rewritten, numbered in the order in which they were read."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from sqlalchemy import func, insert, select

from campaign.records.page import PageKind
from campaign.store import models as m
from campaign.store.sessions import Sessions, portions


class Fact(NamedTuple):
    """What an annotation said of a mask when it was read; `verdict` is yes, no, unsure or withdrawn.

    A named tuple rather than a row of the session: turns read thousands.
    """

    id: int
    page_key: str
    annotation_id: int
    mask_id: int
    annotator: str
    verdict: str
    answered_at: str
    lead_time: float | None


_COLUMNS = (
    m.Answer.id, m.Answer.page_key, m.Answer.annotation_id, m.Answer.mask_id, m.Answer.annotator, m.Answer.verdict,
    m.Answer.answered_at, m.Answer.lead_time,
)  # fmt: skip


class Answers:
    """Part of `Store`: what annotators said."""

    def __init__(self, sessions: Sessions):
        self._sessions = sessions

    def add(self, rows: Iterable[Mapping[str, Any]]) -> int:
        """Adds facts that are not there yet; returns how many were new."""
        wanted = {_identity(row): row for row in rows}
        if not wanted:
            return 0
        annotations = sorted({identity[0] for identity in wanted})
        at = m.now()
        columns = m.Answer.annotation_id, m.Answer.mask_id, m.Answer.answered_at, m.Answer.verdict
        with self._sessions() as session:
            for part in portions(annotations):
                for known in session.execute(select(*columns).where(m.Answer.annotation_id.in_(part))):
                    wanted.pop((known[0], known[1], known[2], known[3]), None)
            if wanted:
                session.execute(insert(m.Answer), [{**row, "read_at": at} for row in wanted.values()])
        return len(wanted)

    def rows(self, page_keys: Iterable[str] | None = None) -> list[Fact]:
        """All facts, in the order they were read, or those of some pages."""
        query = select(*_COLUMNS).order_by(m.Answer.id)
        with self._sessions() as session:
            if page_keys is None:
                return [Fact(*row) for row in session.execute(query)]
            facts = [
                Fact(*row)
                for part in portions(sorted(set(page_keys)))
                for row in session.execute(query.where(m.Answer.page_key.in_(part)))
            ]
        return sorted(facts)

    def after(self, fact: int) -> list[Fact]:
        """Facts read after the one of that id, in the order they were read."""
        query = select(*_COLUMNS).where(m.Answer.id > fact).order_by(m.Answer.id)
        with self._sessions() as session:
            return [Fact(*row) for row in session.execute(query)]

    def stream(self, portion: int) -> Iterator[Fact]:
        """All facts in the order they were read, so many read at a time, no transaction open in between."""
        query, last = select(*_COLUMNS).order_by(m.Answer.id).limit(portion), 0
        while True:
            with self._sessions() as session:
                facts = [Fact(*row) for row in session.execute(query.where(m.Answer.id > last))]
            yield from facts
            if len(facts) < portion:
                return
            last = facts[-1].id

    def on_masks(self, mask_ids: Collection[int]) -> list[Fact]:
        """Facts about some masks, in the order they were read."""
        query = select(*_COLUMNS).order_by(m.Answer.id)
        with self._sessions() as session:
            facts = [
                Fact(*row)
                for part in portions(sorted(mask_ids))
                for row in session.execute(query.where(m.Answer.mask_id.in_(part)))
            ]
        return sorted(facts)

    def of_class(self, round_number: int, class_id: int) -> list[Fact]:
        """Facts on a round's verification pages of one class, in the order they were read."""
        query = (
            select(*_COLUMNS)
            .join(m.Page, m.Page.key == m.Answer.page_key)
            .where(m.Page.round == round_number, m.Page.class_id == class_id, m.Page.kind == PageKind.VERIFY.value)
            .order_by(m.Answer.id)
        )
        with self._sessions() as session:
            return [Fact(*row) for row in session.execute(query)]

    def masks_of(self, annotator: str) -> set[int]:
        """Every mask that one annotator ever said something of."""
        with self._sessions() as session:
            return set(session.scalars(select(m.Answer.mask_id).where(m.Answer.annotator == annotator).distinct()))

    def annotators(self) -> set[str]:
        """Everyone who has ever answered."""
        with self._sessions() as session:
            return set(session.scalars(select(m.Answer.annotator).distinct()))

    def newest(self) -> int:
        """The id of the newest fact, 0 before the first."""
        with self._sessions() as session:
            return session.scalar(select(func.max(m.Answer.id))) or 0


def _identity(row: Mapping[str, Any]) -> tuple[int, int, str, str]:
    return row["annotation_id"], row["mask_id"], row["answered_at"], row["verdict"]
