"""What is known of every mask that was asked about: a view of the verdicts that count, on pages of every kind.

The search of a class keeps what its own pages say; this keeps all of it together, as columns, so that what is chosen
over all masks at once costs a turn what is new. Where it changes whose answers count, everything is read again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from threading import Lock

import numpy as np

from campaign.derived.live import live
from campaign.derived.trust import ended_rounds
from campaign.quality.answers import standing_answers, verdicts
from campaign.records.page import PageKind, is_question
from campaign.search.selection import NONE
from campaign.store import Store
from campaign.store.answers import Fact
from campaign.store.pages import Asked
from campaign.store.views import save_view

NAME = "answered"
FORM = "2"  # of snapshots; another form is worked out anew

# `round` of the verification page that asks about the mask, 0 for other pages alone; `page` is the number of its first
# page. `verdict` is by the answers on all its pages, `own` by those on its verification page, and `fact` the number of
# the newest of those: verdicts can be put in the order in which they came.
ROWS = np.dtype(
    [
        ("mask", np.int64), ("page", np.int64), ("class_id", np.int32), ("round", np.int32), ("verdict", np.int8),
        ("own", np.int8), ("fact", np.int64),
    ]
)  # fmt: skip


class AnsweredView:
    """A row of `ROWS` for every mask that was asked about, by mask id. `refresh` before reading."""

    def __init__(self, store: Store):
        self.store = store
        self.rows: np.ndarray = np.zeros(0, ROWS)
        self.answer, self.page = 0, 0  # the newest fact and page taken in
        self._version = ""
        self._file: str | None = None
        self._changed = False
        self._loaded = False
        self._lock = Lock()

    def refresh(self) -> AnsweredView:
        """Takes in all that is new; returns itself."""
        live(self.store)  # whose answers count follows from facts that may be new
        with self._lock:
            version = self._rules()
            if not self._loaded:
                self._load()
            if version != self._version:
                self._rebuild(version)
            newest_page, newest = self.store.pages.newest(), self.store.answers.newest()
            touched: set[int] = set()
            if newest_page > self.page:
                asked = [a for a in self.store.questions.after(self.page) if _counts(a)]
                self._add(asked)
                touched |= {a.mask_id for a in asked}
                self.page = max(newest_page, *(a.number for a in asked)) if asked else newest_page
            if newest > self.answer:
                facts = self.store.answers.after(self.answer)
                touched |= {f.mask_id for f in facts}
                self.answer = facts[-1].id
            if touched:
                self._judge(touched)
                self._changed = True
        return self

    def of(self, mask_ids: np.ndarray, column: str, otherwise: int = NONE) -> np.ndarray:
        """A column of these masks, in their order; `otherwise` where a mask was not asked about."""
        return matched(self.rows["mask"], self.rows[column], mask_ids, otherwise)

    def over(self, mask_ids: np.ndarray, column: str, otherwise: int = NONE) -> np.ndarray:
        """The same of all masks of a round, whose ids rise: those that were asked about are looked up among them."""
        found = np.full(len(mask_ids), otherwise, self.rows.dtype[column])
        if len(mask_ids):
            place = np.minimum(np.searchsorted(mask_ids, self.rows["mask"]), len(mask_ids) - 1)
            there = mask_ids[place] == self.rows["mask"]
            found[place[there]] = self.rows[column][there]
        return found

    def save(self) -> None:
        """Writes a snapshot where something is new. To be called under the campaign's lock."""
        with self._lock:
            if not self._changed:
                return
            file = f"{NAME}-{self.answer}-{self.page}-{self._version[:8]}.npz"
            self.store.views.write(file, {"rows": self.rows}, {})
            with self.store.session() as session:
                save_view(session, NAME, self._version, {"answer": self.answer, "page": self.page}, {}, file)
            if self._file not in (None, file):
                self.store.views.remove([str(self._file)])
            self._file, self._changed = file, False

    def _rules(self) -> str:
        """Names all by which answers count, beside themselves."""
        trust = live(self.store).trust
        intervals = sorted((user, [tuple(t) for t in times]) for user, times in trust.intervals.items() if times)
        ended = sorted(ended_rounds(self.store).items()) if intervals else []
        parts = FORM, self.store.settings.quality.qualification, sorted(trust.qualified), intervals, ended
        return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()

    def _load(self) -> None:
        self._loaded = True
        for _ in range(2):  # another process may save, and remove what it replaces, between the row and its file
            row = self.store.views.row(NAME)
            stored = self.store.views.read(row.file) if row is not None and row.file else None
            if row is not None and stored is not None:
                self.rows, self._version, self._file = stored[0]["rows"], row.version, row.file
                self.answer, self.page = int(row.cursor["answer"]), int(row.cursor["page"])
                return

    def _rebuild(self, version: str) -> None:
        """Reads everything again, under other rules."""
        self.answer, self.page = self.store.answers.newest(), self.store.pages.newest()
        self.rows, self._version, self._changed = np.zeros(0, ROWS), version, True
        asked = [a for a in self.store.questions.after(0) if _counts(a)]
        self._add(asked)
        self._write({a.mask_id for a in asked}, asked, self.store.answers.rows())

    def _add(self, asked: Iterable[Asked]) -> None:
        """Rows for masks that had none, and the rounds of those that are now on a verification page too."""
        first: dict[int, Asked] = {}
        verify: dict[int, int] = {}
        for a in asked:
            first.setdefault(a.mask_id, a)
            if a.kind == PageKind.VERIFY:
                verify.setdefault(a.mask_id, a.round)
        known = np.isin(list(first), self.rows["mask"]).tolist() if first else []
        new = [
            (mask, a.number, a.class_id, 0, NONE, NONE, 0)
            for (mask, a), there in zip(first.items(), known, strict=True)
            if not there
        ]
        if new:
            rows = np.concatenate([self.rows, np.array(new, ROWS)])
            self.rows = rows[np.argsort(rows["mask"], kind="stable")]
        if verify:
            place = np.searchsorted(self.rows["mask"], list(verify))
            unset = self.rows["round"][place] == 0
            self.rows["round"][place[unset]] = np.array(list(verify.values()), np.int32)[unset]

    def _judge(self, masks: Collection[int]) -> None:
        """Works out anew what is known of these masks."""
        asked = [a for a in self.store.questions.on_masks(masks) if _counts(a)]
        ids = {a.mask_id for a in asked}
        self._add(asked)
        self._write(ids, asked, self.store.answers.on_masks(ids))

    def _write(self, masks: Collection[int], asked: Iterable[Asked], facts: Iterable[Fact]) -> None:
        question = {(a.page_key, a.mask_id): a for a in asked}
        trust, ended = live(self.store).trust, ended_rounds(self.store)
        counted: list[tuple[Fact, Asked]] = []
        for f in standing_answers(facts):
            a = question.get((f.page_key, f.mask_id))
            if a is not None and trust.counts(f, a, ended):
                counted.append((f, a))
        own = [f for f, a in counted if a.kind == PageKind.VERIFY]
        newest: dict[int, int] = {}
        for f in own:
            newest[f.mask_id] = max(f.id, newest.get(f.mask_id, 0))
        place = np.searchsorted(self.rows["mask"], sorted(masks))
        self.rows["verdict"][place], self.rows["own"][place], self.rows["fact"][place] = NONE, NONE, 0
        for column, values in (
            ("verdict", verdicts(f for f, _ in counted)),
            ("own", verdicts(own)),
            ("fact", newest),
        ):
            ids = np.fromiter(values, np.int64, len(values))
            self.rows[column][np.searchsorted(self.rows["mask"], ids)] = np.fromiter(
                (int(v) for v in values.values()), np.int64, len(values)
            )


def answered(store: Store) -> AnsweredView:
    """What is known of every mask of a campaign that was asked about."""
    view: AnsweredView = store.companions.setdefault(AnsweredView, AnsweredView(store))
    try:
        return view.refresh()
    except BaseException:
        # Half of the news may be taken in: the next look begins with what was saved.
        store.companions.pop(AnsweredView, None)
        raise


def matched(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray, otherwise: float) -> np.ndarray:
    """The value of each wanted key, of rising `keys`; `otherwise` where there is none."""
    found = np.full(len(wanted), otherwise, values.dtype)
    if len(keys) and len(wanted):
        place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        same = keys[place] == wanted
        found[same] = values[place[same]]
    return found


def _counts(a: Asked) -> bool:
    return a.gold is None and is_question(a.kind)
