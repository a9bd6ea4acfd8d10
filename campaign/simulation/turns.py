"""Simulated turns: how often annotators wait for the search because it wants few answers before it goes on.

In a turn the searches catch up with the answers, pages are planned as production plans them, and annotators answer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from campaign.search.ahead import ahead, places_ahead
from campaign.search.evidence import Policy
from campaign.search.thresholds import Thresholds
from campaign.search.tree_search import Search
from campaign.simulation.annotators import Annotators
from campaign.simulation.populations import ClassPopulation

PAGE_SIZE = 15
Page = tuple[int, list[int]]  # class, leaves


@dataclass(frozen=True)
class Turns:
    """The turns of a simulated campaign that published something.

    `published` (T,) questions of each turn. `searching` (T,) classes that were not done then. `searches` as they ended,
    by class id.
    """

    published: np.ndarray
    searching: np.ndarray
    searches: dict[int, Search]

    @property
    def questions(self) -> int:
        """Questions in all."""
        return int(self.published.sum())

    def waits(self, classes: int | None = None, page_size: int = PAGE_SIZE) -> int:
        """Turns at the end that publish under one page per class, after the last one that publishes more.

        Of `classes`, or by default of those that are still searching.
        """
        full = np.flatnonzero(self.published >= page_size * (self.searching if classes is None else classes))
        return len(self.published) - (int(full[-1]) + 1 if len(full) else 0)


def run_turns(
    population: Sequence[ClassPopulation],
    policy: Policy,
    thresholds: Mapping[int, Thresholds],
    annotators: Annotators,
    *,
    seed: int,
    pages_a_turn: int | None = None,
    least_pages: int | None = None,
) -> Turns:
    """Searches all classes turn by turn to their end, without a budget. The same seed gives the same turns.

    `pages_a_turn`: how many pages are answered between two turns, the oldest first; None for all. `least_pages`: pages
    up to which masks are asked about ahead, see `places_ahead`; None to ask nothing ahead.
    """
    searches = {c.class_id: Search(c.tree, policy, thresholds[c.class_id], seed) for c in population}
    verdicts = {c.class_id: annotators.verdicts(c.iou, seed * 1009 + c.class_id).tolist() for c in population}
    open_pages: deque[Page] = deque()
    published, searching = [], []
    while True:
        pages = plan(searches, {key for key, _ in open_pages}, len(open_pages), least_pages)
        open_pages.extend(pages)
        if pages:
            published.append(sum(len(leaves) for _, leaves in pages))
            searching.append(sum(not search.done for search in searches.values()))
        if not open_pages:
            return Turns(np.array(published, int), np.array(searching, int), searches)
        for _ in range(min(len(open_pages), pages_a_turn or len(open_pages))):
            key, leaves = open_pages.popleft()
            for leaf in leaves:
                searches[key].answer(leaf, verdicts[key][leaf])


def plan(searches: Mapping[int, Search], busy: set[int], pages: int, least_pages: int | None) -> list[Page]:
    """New pages, recorded as asked; one that is not full is only made for a class that is not `busy` with open ones.

    `pages` are open already.
    """
    new: list[Page] = []
    for key, search in searches.items():
        search.catch_up()
        leaves = [leaf for ask in search.wishes() for leaf in ask.leaves]
        new += _paged(key, leaves, full_only=key in busy)
    if least_pages is not None:
        short = {key: leaves for key, leaves in new if len(leaves) < PAGE_SIZE}
        free = {key: PAGE_SIZE - len(leaves) for key, leaves in short.items()}
        for key, places in places_ahead(free, pages + len(new), least_pages, PAGE_SIZE).items():
            more = [leaf for _, leaf in ahead(searches[key], places)]
            short[key] += more[: free[key]]
            new += _paged(key, more[free[key] :])
    for key, leaves in new:
        searches[key].asked(leaves)
    return new


def _paged(key: int, leaves: list[int], full_only: bool = False) -> list[Page]:
    """Pages of one class."""
    end = len(leaves) - len(leaves) % PAGE_SIZE if full_only else len(leaves)
    return [(key, leaves[i : min(i + PAGE_SIZE, end)]) for i in range(0, end, PAGE_SIZE)]
