"""What the store holds of pages and of the questions on them."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

from sqlalchemy import Select, and_, exists, func, insert, or_, select, update
from sqlalchemy.orm import Session

from campaign.records.page import AUDIT, PROMISE, NewPage, PageKind, Screen
from campaign.store import models as m
from campaign.store.rounds import JOINED
from campaign.store.sessions import Sessions, portions


class Asked(NamedTuple):
    """One question with what is needed of its page; `gold` is the known verdict, None where it is asked in earnest.

    `name` is what the mask is called on that page in Label Studio, None where it is called by its id, as it was before.
    """

    page_key: str
    number: int
    mask_id: int
    gold: str | None
    kind: str
    round: int
    class_id: int
    name: str | None = None


class Pages:
    """Part of `Store`: pages, numbered in the order in which they were opened."""

    def __init__(self, sessions: Sessions):
        self._sessions = sessions

    def add(self, pages: Iterable[NewPage]) -> int:
        """Stores pages with their questions, each once; returns how many were new."""
        wanted = {page.key: page for page in pages}
        with self._sessions() as session:
            for part in portions(list(wanted)):
                for key in session.scalars(select(m.Page.key).where(m.Page.key.in_(part))):
                    del wanted[key]
            last = session.scalar(select(func.max(m.Page.number))) or 0
            rows, questions = [], []
            for number, page in enumerate(wanted.values(), last + 1):
                rows.append(
                    {
                        "key": page.key, "name": _page_name(), "number": number, "round": page.round_number,
                        "class_id": page.class_id, "kind": str(page.kind), "screen": str(page.screen),
                        "place": page.place,
                    }
                )  # fmt: skip
                questions += [
                    {
                        "page_key": page.key, "mask_id": mask, "cluster": cluster, "gold": page.gold.get(mask),
                        "name": name,
                    }
                    for (mask, cluster), name in zip(page.questions, _mask_names(len(page.questions)), strict=True)
                ]  # fmt: skip
            _insert(session, m.Page, rows)
            _insert(session, m.Question, questions)
        return len(wanted)

    def rows(
        self, published: bool | None = None, round_number: int | None = None, kind: str | None = None
    ) -> list[m.Page]:
        """Pages in the order they were opened; published ones, unpublished ones, or both; of a round, of a kind."""
        query = select(m.Page).order_by(m.Page.number)
        if published is not None:
            query = query.where(m.Page.task_id.is_not(None) if published else m.Page.task_id.is_(None))
        if round_number is not None:
            query = query.where(m.Page.round == round_number)
        if kind is not None:
            query = query.where(m.Page.kind == kind)
        with self._sessions() as session:
            return list(session.scalars(query))

    def stream(self, portion: int) -> Iterator[m.Page]:
        """All pages by number, so many read at a time, no transaction open in between."""
        query, last = select(m.Page).order_by(m.Page.number).limit(portion), 0
        while True:
            with self._sessions() as session:
                rows = list(session.scalars(query.where(m.Page.number > last)))
            yield from rows
            if len(rows) < portion:
                return
            last = rows[-1].number

    def following(self, kind: str, number: int, count: int) -> list[m.Page]:
        """The next published pages of a kind after the page of that number, at most `count`."""
        query = select(m.Page).where(m.Page.kind == str(kind), m.Page.number > number, m.Page.task_id.is_not(None))
        with self._sessions() as session:
            return list(session.scalars(query.order_by(m.Page.number).limit(count)))

    def some(self, keys: Collection[str]) -> dict[str, m.Page]:
        """Pages by their keys; unknown ones are left out."""
        with self._sessions() as session:
            return {
                row.key: row
                for part in portions(sorted(keys))
                for row in session.scalars(select(m.Page).where(m.Page.key.in_(part)))
            }

    def numbered(self, number: int) -> m.Page:
        """The page of that number. Raises KeyError where there is none."""
        with self._sessions() as session:
            row = session.scalar(select(m.Page).where(m.Page.number == number))
        if row is None:
            raise KeyError(number)
        return row

    def open_after(self, number: int | None, screen: str, count: int) -> list[int]:
        """The numbers of the pages of a screen after this one, or of those without an answer, `count` at most."""
        wanted = select(m.Page.number).where(m.Page.screen == screen).order_by(m.Page.number).limit(count)
        if number is not None:
            wanted = wanted.where(m.Page.number > number)
        else:
            wanted = wanted.where(~exists().where(m.Answer.page_key == m.Page.key))
        with self._sessions() as session:
            return [int(n) for n in session.scalars(wanted)]

    def of_tasks(self, tasks: Collection[int]) -> dict[int, m.Page]:
        """{task: the page that was published as it} of these tasks; others are left out."""
        with self._sessions() as session:
            return {
                int(row.task_id or 0): row
                for part in portions(sorted(tasks))
                for row in session.scalars(select(m.Page).where(m.Page.task_id.in_(part)))
            }

    def named(self, names: Collection[str]) -> set[str]:
        """Which of these are names of pages, or keys of pages whose tasks bear them."""
        with self._sessions() as session:
            known: set[str] = set()
            for part in portions(sorted(names)):
                known |= {str(name) for name in session.scalars(select(m.Page.name).where(m.Page.name.in_(part)))}
                by_key = select(m.Page.key).where(m.Page.key.in_(part), m.Page.name.is_(None))
                known |= set(session.scalars(by_key))
        return known

    def drawn_of_class(self, class_id: int) -> list[str]:
        """The keys of the pages of audits and promises that ask about a class."""
        kinds = m.Page.kind.startswith(AUDIT), m.Page.kind.startswith(PROMISE)
        with self._sessions() as session:
            return list(session.scalars(select(m.Page.key).where(m.Page.class_id == class_id, or_(*kinds))))

    def count(self, kind: str) -> int:
        """How many pages of a kind there are."""
        with self._sessions() as session:
            return session.scalar(select(func.count()).select_from(m.Page).where(m.Page.kind == str(kind))) or 0

    def numbers(self, kinds: Collection[str]) -> list[int]:
        """The numbers of the pages of these kinds."""
        with self._sessions() as session:
            return list(session.scalars(select(m.Page.number).where(m.Page.kind.in_([str(k) for k in kinds]))))

    def newest(self) -> int:
        """The number of the newest page, 0 before the first."""
        with self._sessions() as session:
            return session.scalar(select(func.max(m.Page.number))) or 0

    def newest_task(self, screen: str = Screen.VERIFICATION) -> int:
        """The highest id of a task that a page of that screen's project is known to have; 0 before the first."""
        query = select(func.max(m.Page.task_id)).where(m.Page.kind != PageKind.QUALIFY, m.Page.screen == str(screen))
        with self._sessions() as session:
            return session.scalar(query) or 0

    def mark_published(self, tasks: dict[str, int]) -> None:
        """Notes which task of Label Studio holds which page."""
        if tasks:
            with self._sessions() as session:
                session.execute(update(m.Page), [{"key": key, "task_id": task} for key, task in tasks.items()])

    def unpublish(self, keys: Iterable[str]) -> None:
        """Forgets which tasks hold these pages, so that they are published again, under names that nobody knows."""
        wanted = sorted(keys)
        with self._sessions() as session:
            for part in portions(wanted):
                session.execute(update(m.Page).where(m.Page.key.in_(part)).values(task_id=None))
        self.rename(wanted)

    def rename(self, keys: Collection[str]) -> None:
        """Draws new names for these pages and the masks on them."""
        with self._sessions() as session:
            for part in portions(sorted(keys)):
                for page in session.scalars(select(m.Page).where(m.Page.key.in_(part))):
                    page.name = _page_name()
                rows = session.scalars(select(m.Question).where(m.Question.page_key.in_(part)))
                asked = sorted(rows, key=lambda q: q.page_key)
                for _, group in groupby(asked, key=lambda q: q.page_key):
                    questions = list(group)
                    for question, name in zip(questions, _mask_names(len(questions)), strict=True):
                        question.name = name


class Questions:
    """Part of `Store`: masks on pages, gold among them."""

    def __init__(self, sessions: Sessions):
        self._sessions = sessions

    def rows(
        self, round_number: int | None = None, kind: str | None = None, gold: bool = False
    ) -> list[tuple[m.Question, m.Page]]:
        """Questions with their pages, by page; with `gold` also the gold hidden among them."""
        query = select(m.Question, m.Page).join(m.Page).order_by(m.Page.number, m.Question.mask_id)
        if not gold:
            query = query.where(m.Question.gold.is_(None))
        if round_number is not None:
            query = query.where(m.Page.round == round_number)
        if kind is not None:
            query = query.where(m.Page.kind == str(kind))
        with self._sessions() as session:
            return [(q, p) for q, p in session.execute(query)]

    def after(self, page_number: int) -> list[Asked]:
        """Questions and gold on pages opened after the one of that number, by page."""
        query = _asked().where(m.Page.number > page_number).order_by(m.Page.number, m.Question.mask_id)
        with self._sessions() as session:
            return [Asked(*row) for row in session.execute(query)]

    def on_pages(self, keys: Collection[str]) -> list[Asked]:
        """Questions and gold on these pages, by page and mask."""
        with self._sessions() as session:
            return [
                Asked(*row)
                for part in portions(sorted(keys))
                for row in session.execute(
                    _asked().where(m.Question.page_key.in_(part)).order_by(m.Page.number, m.Question.mask_id)
                )
            ]

    def on_masks(self, mask_ids: Collection[int]) -> list[Asked]:
        """Questions and gold about these masks, by page and mask."""
        with self._sessions() as session:
            asked = [
                Asked(*row)
                for part in portions(sorted(mask_ids))
                for row in session.execute(_asked().where(m.Question.mask_id.in_(part)))
            ]
        return sorted(asked, key=lambda a: (a.number, a.mask_id))

    def of_class(self, round_number: int, class_id: int) -> list[int]:
        """The masks that a round's verification pages ask about in one class, gold aside, by page."""
        query = (
            select(m.Question.mask_id)
            .join(m.Page)
            .where(m.Page.round == round_number, m.Page.class_id == class_id, m.Page.kind == PageKind.VERIFY.value)
            .where(m.Question.gold.is_(None))
            .order_by(m.Page.number, m.Question.mask_id)
        )
        with self._sessions() as session:
            return list(session.scalars(query))

    def gold(self, kind: str | None = None) -> list[tuple[m.Question, m.Page]]:
        """Gold with the pages it is hidden on, by page; of one kind of page, or all."""
        query = select(m.Question, m.Page).join(m.Page).where(m.Question.gold.is_not(None))
        if kind is not None:
            query = query.where(m.Page.kind == str(kind))
        with self._sessions() as session:
            return [(q, p) for q, p in session.execute(query.order_by(m.Page.number, m.Question.mask_id))]

    def count_gold(self, kind: str) -> int:
        """How much gold lies on pages of a kind."""
        query = select(func.count()).select_from(m.Question).join(m.Page)
        with self._sessions() as session:
            return session.scalar(query.where(m.Question.gold.is_not(None), m.Page.kind == str(kind))) or 0

    def by_decision(self, kinds: Collection[str]) -> list[tuple[int, int, str | None, int]]:
        """(round, class, kind of the decision of the cluster that they sample, questions) on pages of these kinds.

        The kind of decision is None where the cluster is not decided, or none is sampled, and where it was sampled
        before new masks joined the trees: clusters had other numbers then.
        """
        columns = m.Page.round, m.Page.class_id, m.Decision.kind
        of_cluster = and_(
            m.Decision.round == m.Page.round, m.Decision.class_id == m.Page.class_id,
            m.Decision.cluster == m.Question.cluster,
            *(or_(m.Page.round != number, m.Page.number > page) for number, page in self._joined()),
        )  # fmt: skip
        query = (
            select(*columns, func.count())
            .select_from(m.Question)
            .join(m.Page)
            .outerjoin(m.Decision, of_cluster)
            .where(m.Question.gold.is_(None), m.Page.kind.in_([str(k) for k in kinds]))
            .group_by(*columns)
        )
        with self._sessions() as session:
            return [(r, c, k, n) for r, c, k, n in session.execute(query)]

    def _joined(self) -> list[tuple[int, int]]:
        """(round, its newest page when masks joined its trees last) of the rounds in which they did."""
        with self._sessions() as session:
            rounds = session.execute(select(m.Round.number, m.Round.metrics))
            return [(number, known[JOINED][-1]["page"]) for number, known in rounds if known.get(JOINED)]

    def count(self, kind: str | None = None) -> int:
        """How many questions were asked so far, without gold."""
        query = select(func.count()).select_from(m.Question).join(m.Page).where(m.Question.gold.is_(None))
        with self._sessions() as session:
            return session.scalar(query if kind is None else query.where(m.Page.kind == str(kind))) or 0


def _asked() -> Select:
    return select(
        m.Question.page_key,
        m.Page.number,
        m.Question.mask_id,
        m.Question.gold,
        m.Page.kind,
        m.Page.round,
        m.Page.class_id,
        m.Question.name,
    ).join(m.Page)


def _page_name() -> str:
    return secrets.token_hex(16)


def _mask_names(count: int) -> list[str]:
    return [secrets.token_hex(8) for _ in range(count)]


def _insert(session: Session, table: type[m.Base], rows: list[dict]) -> None:
    if rows:
        session.execute(insert(table), rows)
