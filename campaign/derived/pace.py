"""The work of the annotators: a view of every page as each of them answered it, kept up with the facts.

Pages with new facts are read again as a whole, so edits and deletions come out as if they had always been so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from datetime import datetime
from threading import Lock
from typing import Any

import numpy as np

from campaign.derived.live import live
from campaign.derived.showing import shown_order
from campaign.derived.trust import ended_rounds, is_withdrawn
from campaign.quality.answers import standing_answers
from campaign.quality.work import VOTES, WORK, Pace, believed, marks, usual_seconds, work_pace
from campaign.records.page import PageKind
from campaign.records.verdict import Verdict
from campaign.store import Store
from campaign.store.answers import Fact
from campaign.store.pages import Asked
from campaign.store.views import save_view

NAME = "work"
FORM = "2"  # of snapshots; another form is worked out anew
# A snapshot holds all pages, so it is written once this share of them is new: a fact is written a few times, not once
# a turn.
NEW_SHARE, NEW_LEAST = 0.05, 100


class WorkView:
    """Every page as each annotation answered it, qualification tests left out. `refresh` before reading.

    `work` has a row for each page and annotation, `votes` one for each answer on a question; `users` are whom their
    numbers mean.
    """

    def __init__(self, store: Store):
        self.store = store
        self.cursor = 0  # the newest fact taken in
        self.users: list[str] = []
        self.work: np.ndarray = np.zeros(0, WORK)
        self.votes: np.ndarray = np.zeros(0, VOTES)
        self._number: dict[str, int] = {}
        self._loaded = False
        self._unsaved = 0  # pages that no snapshot holds as they are
        self._lock = Lock()

    def refresh(self) -> WorkView:
        """Takes in all facts that are new; returns itself."""
        with self._lock:
            if not self._loaded:
                self._load()
            if facts := self.store.answers.after(self.cursor):
                keys = {f.page_key for f in facts}
                self._replace(keys)
                self.cursor = facts[-1].id
                self._unsaved += len(keys)
        return self

    def believed(self) -> np.ndarray:
        """Rows of `work` with the seconds that their pages are believed to have taken: annotators state them."""
        quality = self.store.settings.quality
        return believed(self.work, quality.seconds_least, quality.seconds_most)

    def pace(self) -> Pace:
        """The time of all answers so far, gold among them."""
        return work_pace(self.believed())

    def seconds(self, otherwise: float) -> float:
        """All the time that was worked: pages whose time is not known took as long as usual.

        `otherwise` are the seconds of an answer where no page says.
        """
        rows = self.believed()
        pace, unknown = work_pace(rows), rows["shown"][np.isnan(rows["seconds"])].sum()
        usual = usual_seconds(rows["seconds"], rows["shown"].astype(float), rows["user"])
        return pace.total + float(unknown) * (otherwise if usual is None else usual)

    def save(self) -> None:
        """Writes a snapshot where enough is new. To be called under the campaign's lock."""
        with self._lock:
            row = self.store.views.row(NAME)
            if row is not None and self._unsaved <= max(NEW_LEAST, NEW_SHARE * len(self.work)):
                return
            file = f"{NAME}-{self.cursor}.npz"
            self.store.views.write(file, {"work": self.work, "votes": self.votes}, {"users": self.users})
            with self.store.session() as session:
                save_view(session, NAME, FORM, {"answer": self.cursor}, {}, file)
            if row is not None and row.file not in (None, file):
                self.store.views.remove([str(row.file)])
            self._unsaved = 0

    def _load(self) -> None:
        self._loaded = True
        row = self.store.views.row(NAME)
        if row is None or row.version != FORM or row.file is None:
            return
        stored = self.store.views.read(row.file)
        if stored is None:  # replaced while it was looked for, or gone
            row = self.store.views.row(NAME)
            stored = self.store.views.read(str(row.file)) if row is not None else None
        if row is None or stored is None:
            return
        arrays, values = stored
        self.work, self.votes, self.cursor = arrays["work"], arrays["votes"], int(row.cursor["answer"])
        for user in values["users"]:
            self._user(user)

    def _replace(self, keys: Collection[str]) -> None:
        """Reads what stands on these pages again."""
        asked: dict[str, dict[int, Asked]] = defaultdict(dict)
        for a in self.store.questions.on_pages(keys):
            if a.kind != PageKind.QUALIFY:
                asked[a.page_key][a.mask_id] = a
        order = {key: [a.mask_id for a in shown_order(q.values())] for key, q in asked.items()}
        answers: dict[tuple[str, int], dict[int, Fact]] = defaultdict(dict)
        for fact in standing_answers(self.store.answers.rows(asked)):
            if fact.mask_id in asked[fact.page_key]:
                answers[fact.page_key, fact.annotation_id][fact.mask_id] = fact
        work: list[tuple[Any, ...]] = []
        votes: list[tuple[Any, ...]] = []
        for (key, annotation), facts in answers.items():
            shown = [facts[mask] for mask in order[key] if mask in facts]
            user = self._user(shown[0].annotator)
            work.append(_work_row(annotation, user, shown, asked[key]))
            votes += _vote_rows(user, shown, asked[key])
        pages = np.array(sorted({a.number for q in asked.values() for a in q.values()}), np.int64)
        self.work = _exchanged(self.work, pages, work)
        self.votes = _exchanged(self.votes, pages, votes)

    def _user(self, annotator: str) -> int:
        if annotator not in self._number:
            self._number[annotator] = len(self.users)
            self.users.append(annotator)
        return self._number[annotator]


def work(store: Store) -> WorkView:
    """The work of a campaign's annotators as it stands now."""
    view: WorkView = store.companions.setdefault(WorkView, WorkView(store))
    return view.refresh()


def counted_work(store: Store) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the work on questions whose answers count, seconds as they are believed, and which rows those are."""
    rows = work(store).believed()
    trust, users, ended = live(store).trust, work(store).users, ended_rounds(store)
    counts = rows["questions"] > 0
    if store.settings.quality.qualification:
        counts &= np.isin(rows["user"], [n for n, user in enumerate(users) if user in trust.qualified])
    for user, times in trust.intervals.items():
        own = np.flatnonzero(counts & (rows["user"] == (users.index(user) if user in users else -1)))
        for n in own.tolist():
            at, end = rows["stamp"][n].decode(), ended.get(int(rows["round"][n]))
            counts[n] = not any(is_withdrawn(t, at, end) for t in times)
    return rows[counts], np.flatnonzero(counts)


def campaign_pace(store: Store) -> Pace:
    """The time of all answers so far, gold among them."""
    return work(store).pace()


def _work_row(annotation: int, user: int, shown: list[Fact], asked: dict[int, Asked]) -> tuple[Any, ...]:
    """A row of `WORK` from the standing answers of one annotation on one page, in the order of its masks."""
    questions = [asked[f.mask_id] for f in shown]
    page = questions[0]
    real = [f.verdict for f, q in zip(shown, questions, strict=True) if q.gold is None]
    latest = max(shown, key=lambda f: (f.answered_at, f.id))
    return (
        page.number, annotation, user, page.class_id, page.round, len(shown),
        sum(q.gold == Verdict.NO.word for q in questions), len(real), real.count(Verdict.UNSURE.word),
        marks([place for place, f in enumerate(shown) if f.verdict != Verdict.YES.word]),
        np.nan if latest.lead_time is None or latest.lead_time < 0 else latest.lead_time,
        _unix_time(latest.answered_at),
        latest.answered_at.encode(),
    )  # fmt: skip


def _vote_rows(user: int, shown: list[Fact], asked: dict[int, Asked]) -> Iterable[tuple[Any, ...]]:
    """Rows of `VOTES` from the same."""
    for f in shown:
        question = asked[f.mask_id]
        if question.gold is None:
            yield question.number, f.mask_id, f.id, user, question.class_id, Verdict.parse(f.verdict)


def _exchanged(table: np.ndarray, pages: np.ndarray, rows: list[tuple[Any, ...]]) -> np.ndarray:
    """The table with these rows in place of those of some pages."""
    kept = table[~np.isin(table["page"], pages)] if len(table) else table
    return np.concatenate([kept, np.array(rows, table.dtype)]) if rows else kept


def _unix_time(at: str) -> float:
    """A time of Label Studio in seconds, NaN where it is none."""
    try:
        return datetime.fromisoformat(at.replace("Z", "+00:00")).timestamp()
    except ValueError:
        return np.nan
