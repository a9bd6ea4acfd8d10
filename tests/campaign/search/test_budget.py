"""Several classes under one budget."""

from __future__ import annotations

import heapq

import numpy as np

from campaign.search.budget import Searches
from campaign.search.policies import Paper
from campaign.search.thresholds import Thresholds
from campaign.search.tree_search import Search
from tests.campaign.search.builders import random_tree, run


def run_all(searches: Searches, truth, limit=None) -> list[tuple[int, int]]:
    asked = []
    while not searches.done:
        for key, ask in searches.step(limit):
            asked.append((key, ask.cluster))
            for leaf in ask.leaves:
                searches.answer(key, leaf, truth[key][leaf])
    return asked


def test_classes_together_decide_as_apart():
    trees = {key: random_tree(150, key) for key in (3, 5, 8)}
    truth = {key: np.random.default_rng(key).integers(0, 2, 150) for key in trees}
    apart = {key: Search(tree, Paper(n_s=5), Thresholds(0.3, 0.4), 1) for key, tree in trees.items()}
    for key, search in apart.items():
        run(search, truth[key])
    together = Searches({key: Search(tree, Paper(n_s=5), Thresholds(0.3, 0.4), 1) for key, tree in trees.items()})
    run_all(together, truth, limit=1)
    for key, search in together.searches.items():
        assert set(search.decisions) == set(apart[key].decisions)
    assert together.questions == sum(search.questions for search in apart.values()) > 100


def test_shared_budget_goes_to_the_best_clusters_of_all_classes():
    trees = {key: random_tree(150, key) for key in (3, 5, 8)}
    truth = {key: np.ones(150, int) for key in trees}

    def searches(budget):
        return Searches({k: Search(t, Paper(n_s=5), Thresholds(0.2, 0.6), 1) for k, t in trees.items()}, budget)

    order = run_all(searches(None), truth, limit=1)
    by_hand = [(-tree.mean_score[tree.root], key, tree.root) for key, tree in trees.items()]
    expected = []
    while by_hand:  # Algorithm 1 over one queue; all answers are yes, so only low scores split or reject
        _, key, cluster = heapq.heappop(by_hand)
        if 0.2 < trees[key].mean_score[cluster] <= 0.6:
            children = [int(c) for c in trees[key].children[cluster] if c >= 0]
            [heapq.heappush(by_hand, (-trees[key].mean_score[c], key, c)) for c in children]
        elif trees[key].mean_score[cluster] > 0.6:
            expected.append((key, cluster))
    assert order == expected and len({key for key, _ in order[:8]}) > 1
    short = searches(budget=23)
    assert run_all(short, truth, limit=1)[:4] == order[:4]
    assert 18 < short.questions <= 23
