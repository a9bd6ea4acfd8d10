"""The searches of all classes of a round, under one budget."""

from __future__ import annotations

import heapq
from collections.abc import Mapping

from campaign.records.verdict import Verdict
from campaign.search.evidence import Ask
from campaign.search.tree_search import Search


class Searches:
    """The searches of several classes under one budget, the best cluster of all classes first.

    `searches` are keyed by class id. `budget` is the most masks that may be asked about in all of them together.
    """

    def __init__(self, searches: Mapping[int, Search], budget: int | None = None):
        self.searches = dict(searches)
        self.budget = budget
        self._touched = set(self.searches)
        self._heap: list[tuple[float, int]] = []
        self._queued: dict[int, float | None] = {}  # the priority under which a search stands in the heap
        self._spent = sum(search.questions for search in self.searches.values())

    def answer(self, key: int, leaf: int, verdict: Verdict | int) -> None:
        """Tells the verdict of one mask of a class, see `Search.answer`."""
        search = self.searches[key]
        before = search.questions
        search.answer(leaf, verdict)
        self._spent += search.questions - before
        self._touched.add(key)

    @property
    def questions(self) -> int:
        """Masks put to annotators so far."""
        return self._spent

    @property
    def done(self) -> bool:
        """All searches are."""
        return all(search.done for search in self.searches.values())

    def step(self, limit: int | None = None) -> list[tuple[int, Ask]]:
        """What is to be published now, by class id, see `Search.step`; `limit` counts over all classes."""
        for key in sorted(self._touched):
            self.searches[key].settle()
            self._queue(key)
        self._touched.clear()
        asks: list[tuple[int, Ask]] = []
        open_ = 0 if limit is None else sum(search.outstanding for search in self.searches.values())
        while self._heap and (limit is None or open_ < limit):
            priority, key = heapq.heappop(self._heap)
            if self._queued.get(key) != priority:
                continue  # an entry from before the search moved on; a newer one is in the heap
            search, self._queued[key] = self.searches[key], None
            before = search.questions
            if self.budget is not None:
                search.budget = before + self.budget - self._spent
            ask = search.advance()
            self._spent += search.questions - before
            if ask is not None:
                asks.append((key, ask))
                open_ += len(ask.leaves)
            self._queue(key)
        return asks

    def _queue(self, key: int) -> None:
        best = self.searches[key].next_priority
        priority = None if best is None else -best
        if priority is not None and priority != self._queued.get(key):
            heapq.heappush(self._heap, (priority, key))
        self._queued[key] = priority
