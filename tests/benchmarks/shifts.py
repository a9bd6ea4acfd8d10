"""Annotators at work on a campaign, under a simulated clock: pages, turns and waits, on the planning of production.

Every annotator takes the oldest page that lies ready, answers it and submits it as a whole. A turn begins as soon as
something was submitted and the turn before has ended; it knows what was submitted until it begins, and what it plans
lies ready when it ends. Who finds no page waits for the next one. Nobody sleeps: a campaign of hours takes minutes.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any
from unittest import mock

import numpy as np

from campaign.derived.live import live
from campaign.derived.promises import standing
from campaign.pages import selecting
from campaign.records.page import is_promise, is_question
from campaign.steps.verify import decide, save_views
from campaign.store import Store

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
PAGE_DONE, TURN_BEGINS, TURN_ENDS = range(3)  # in the order in which they happen at the same time
Right = Callable[[np.ndarray], np.ndarray]  # which masks are voted yes, by mask ids (n,): (n,) bool


@dataclass
class Shift:
    """What came of it. Seconds are of the simulated clock; `waited` is the sum over people of gaps between pages.

    `idle` is the time of those who found no more page until the campaign ended, `turns` how many there were.
    `questions` were answered, `gold` and `draws` are among them; `in_vain` lay ready when the campaign ended, which
    delivers so many `masks`.
    """

    people: int
    seconds: float = 0.0
    worked: float = 0.0
    waited: float = 0.0
    idle: float = 0.0
    turns: int = 0
    questions: int = 0
    gold: int = 0
    draws: int = 0
    in_vain: int = 0
    masks: int = 0
    course: list[tuple[float, str, int]] = field(default_factory=list)

    @property
    def share(self) -> float:
        """The share of their time that annotators waited for a page that came."""
        return self.waited / max(self.worked + self.waited, 1e-9)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        names = "people", "turns", "questions", "gold", "draws", "in_vain", "masks"
        seconds = {name: round(getattr(self, name), 1) for name in ("seconds", "worked", "waited", "idle")}
        return {name: getattr(self, name) for name in names} | seconds | {"wait_share": round(self.share, 4)}


@dataclass(frozen=True)
class Sheet:
    """A page that lies ready: its key and kind, masks, and which of them are gold."""

    key: str
    kind: str
    masks: np.ndarray
    gold: np.ndarray


class _Desk:
    """The pages and the people of one campaign, as the clock goes."""

    def __init__(self, store: Store, right: Right, people: int, each: float, turn: float):
        self.store, self.right, self.each, self.turn_seconds = store, right, each, turn
        self.shift = Shift(people)
        self.lying: deque[Sheet] = deque()
        self.planned: list[Sheet] = []
        self.idle: dict[int, float] = {}
        self.inbox: list[dict[str, Any]] = []
        self.events: list[tuple[float, int, int, Sheet | None]] = []
        self.page = self.annotation = 0
        self.is_over = self.in_turn = False

    def run(self) -> Shift:
        """From the first turn to the end of the round; the clock starts when the first pages lie ready."""
        heapq.heappush(self.events, (-self.turn_seconds, TURN_BEGINS, 0, None))
        clock, self.in_turn = 0.0, True
        while self.events:
            clock, what, person, sheet = heapq.heappop(self.events)
            if what == TURN_BEGINS:
                self._begin(clock)
            elif what == TURN_ENDS:
                self._end(clock)
            elif sheet is not None:
                self._submit(clock, person, sheet)
        now = standing(self.store)
        self.shift.seconds, self.shift.masks = clock, len(now.mask_id) if now is not None else 0
        return self.shift

    def _begin(self, clock: float) -> None:
        self.store.answers.add(self.inbox)
        self.inbox = []
        self.shift.turns += 1
        with self.store.locked():
            decided = decide(self.store, 1)
            save_views(self.store)
            live(self.store).touched.clear()
        self.is_over = decided.done
        self.planned = list(self._new_pages())
        heapq.heappush(self.events, (clock + self.turn_seconds, TURN_ENDS, 0, None))

    def _new_pages(self) -> Iterator[Sheet]:
        asked: dict[str, list[Any]] = {}
        for a in self.store.questions.after(self.page):
            self.page = max(self.page, a.number)
            if is_question(a.kind):
                asked.setdefault(a.page_key, []).append(a)
        for key, rows in asked.items():
            gold = np.array([a.gold is not None for a in rows])
            yield Sheet(key, rows[0].kind, np.array([a.mask_id for a in rows], np.int64), gold)

    def _end(self, clock: float) -> None:
        self.lying += self.planned
        if self.is_over:
            self.shift.in_vain += sum(len(sheet.masks) for sheet in self.lying)
            self.lying.clear()
            self.shift.idle += sum(clock - since for since in self.idle.values())
            return
        people = range(self.shift.people) if self.shift.turns == 1 else sorted(self.idle, key=self.idle.__getitem__)
        for person in list(people):
            self._take(max(clock, 0.0), person)
        self.in_turn = bool(self.inbox)
        if self.in_turn:
            heapq.heappush(self.events, (clock, TURN_BEGINS, 0, None))

    def _take(self, clock: float, person: int) -> None:
        since = self.idle.setdefault(person, clock)
        if not self.lying:
            return
        del self.idle[person]
        sheet = self.lying.popleft()
        self.shift.waited += clock - since
        self.shift.course.append((clock, sheet.kind, len(sheet.masks)))
        heapq.heappush(self.events, (clock + self.each * len(sheet.masks), PAGE_DONE, person, sheet))

    def _submit(self, clock: float, person: int, sheet: Sheet) -> None:
        self.annotation += 1
        stamp = (START + timedelta(seconds=clock)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        self.inbox += [
            {
                "page_key": sheet.key, "annotation_id": self.annotation, "mask_id": mask, "annotator": str(person),
                "verdict": "yes" if yes else "no", "answered_at": stamp, "lead_time": self.each * len(sheet.masks),
            }
            for mask, yes in zip(sheet.masks.tolist(), self.right(sheet.masks).tolist(), strict=True)
        ]  # fmt: skip
        shift = self.shift
        shift.worked += self.each * len(sheet.masks)
        shift.questions += len(sheet.masks)
        shift.gold += int(sheet.gold.sum())
        shift.draws += int((~sheet.gold).sum()) if is_promise(sheet.kind) else 0
        if self.is_over:
            return
        self._take(clock, person)
        if not self.in_turn:
            self.in_turn = True
            heapq.heappush(self.events, (clock, TURN_BEGINS, 0, None))


def work_shift(store: Store, right: Right, people: int, each: float = 1.5, turn: float = 5.0) -> Shift:
    """One campaign with so many people, who need `each` seconds for an answer, and turns of `turn` seconds."""
    return _Desk(store, right, people, each, turn).run()


def never_ahead(store: Store, right: Right, people: int) -> Shift:
    """The same people one after the other, a page each, and a turn that takes no time after every page."""
    with _one_page_at_a_time():
        return _OneByOne(store, right, people, 1.5, 0.0).run()


class _OneByOne(_Desk):
    """Everybody waits for the turn after the page of whoever is next."""

    def _end(self, clock: float) -> None:
        if self.is_over:
            return
        self.lying += self.planned
        sheet = self.lying.popleft()
        self._submit(clock + self.each * len(sheet.masks), self.annotation % self.shift.people, sheet)

    def _submit(self, clock: float, person: int, sheet: Sheet) -> None:
        self.in_turn = self.is_over = True  # nobody takes the next page by themselves
        super()._submit(clock, person, sheet)
        self.is_over = False
        heapq.heappush(self.events, (clock, TURN_BEGINS, 0, None))


@contextmanager
def _one_page_at_a_time() -> Iterator[None]:
    with mock.patch.multiple(selecting, pages_wanted=lambda *_: 1, pages_ahead=lambda *_: 0):
        yield
