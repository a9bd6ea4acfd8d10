"""Trees and a search with every question answered from the truth."""

from __future__ import annotations

import numpy as np

from campaign.clustering import Tree
from campaign.records.decision import Decision
from campaign.records.verdict import Verdict
from campaign.search.tree_search import Search

# Eight masks:         14 (all, S = 0.60)
#             12 (0..3, S = 0.875)     13 (4..7, S = 0.325)
#             8 (0, 1)   9 (2, 3)      10 (4, 5)   11 (6, 7)
SCORES = np.array([0.95, 0.85, 0.90, 0.80, 0.60, 0.50, 0.10, 0.10])
LINKAGE = np.array(
    [
        [0, 1, 0.10, 2],
        [2, 3, 0.11, 2],
        [4, 5, 0.12, 2],
        [6, 7, 0.13, 2],
        [8, 9, 0.50, 4],
        [10, 11, 0.60, 4],
        [12, 13, 0.90, 8],
    ]
)


def random_tree(n: int, seed: int) -> Tree:
    """A tree of random merges whose mean scores differ from cluster to cluster."""
    rng = np.random.default_rng(seed)
    sizes, alive, rows = {i: 1 for i in range(n)}, list(range(n)), []
    for i in range(n - 1):
        a, b = (alive.pop(rng.integers(len(alive))) for _ in range(2))
        sizes[n + i] = sizes[a] + sizes[b]
        rows.append([a, b, float(i + 1), sizes[n + i]])
        alive.append(n + i)
    return Tree.build(np.array(rows, np.float64).reshape(-1, 4), rng.random(n))


def run(search: Search, truth, limit: int | None = None, verdict=None) -> list[Decision]:
    """Answers every question from `truth` until the search is done."""
    while not search.done:
        for ask in search.step(limit):
            for leaf in ask.leaves:
                search.answer(leaf, verdict(leaf) if verdict else Verdict(int(truth[leaf])))
    return search.decisions
