"""Asking ahead: what is foreseen, and that nothing else changes by it."""

from __future__ import annotations

import numpy as np
import pytest

from campaign.records.verdict import Verdict
from campaign.search.ahead import ahead, places_ahead
from campaign.search.policies import POLICIES, make_policy
from campaign.search.thresholds import Thresholds
from campaign.search.tree_search import Search
from tests.campaign.search.builders import random_tree

THRESHOLDS = Thresholds(0.1, 0.3)


def half_done(policy: str, seed: int, turns: int, n: int = 400) -> tuple[Search, np.ndarray]:
    """A search that caught up after some turns, and the truth."""
    search = Search(random_tree(n, seed), make_policy(policy), THRESHOLDS, seed)
    truth = np.random.default_rng(seed).random(n) < 0.6
    for _ in range(turns):
        search.catch_up()
        answer(search, [leaf for ask in search.wishes() for leaf in ask.leaves], truth)
    search.catch_up()
    return search, truth


def answer(search: Search, leaves: list[int], truth: np.ndarray) -> None:
    search.asked(leaves)
    for leaf in leaves:
        search.answer(leaf, Verdict(int(truth[leaf])))


def lineage(search: Search, cluster: int) -> set[int]:
    """A cluster and all above it."""
    clusters = set()
    while cluster >= 0:
        clusters.add(cluster)
        cluster = int(search.tree.parent[cluster])
    return clusters


@pytest.mark.parametrize("policy", sorted(POLICIES))
@pytest.mark.parametrize("turns", [0, 1, 4])
@pytest.mark.parametrize("count", [1, 12, 40])
def test_masks_of_undecided_clusters_that_nobody_asked_about(policy, turns, count):
    search, _ = half_done(policy, turns, turns)
    wished = {leaf for ask in search.wishes() for leaf in ask.leaves}
    chosen = ahead(search, count)
    leaves = [leaf for _, leaf in chosen]
    assert len(chosen) <= count and len(set(leaves)) == len(leaves)
    assert not wished & set(leaves) and not any(map(search.was_asked, leaves))
    for cluster, leaf in chosen:
        assert leaf in search.tree.members(cluster)
        assert lineage(search, cluster) & set(search.cases)


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_the_same_facts_foresee_the_same_and_the_search_stays_as_it_is(policy):
    search, _ = half_done(policy, 7, 3)
    before = search.state()
    chosen = ahead(search, 15)
    after = search.state()
    assert all(np.array_equal(before[name], after[name], equal_nan=before[name].dtype == float) for name in before)
    assert ahead(search, 15) == chosen
    restored = Search.restore(search.tree, search.policy, THRESHOLDS, search.seed, before)
    assert ahead(restored, 15) == chosen
    again = Search(search.tree, search.policy, THRESHOLDS, search.seed)
    for leaf, verdict in reversed(search.verdicts.items()):
        again.answer(leaf, verdict)
    again.catch_up()
    assert ahead(again, 15) == chosen


def test_nothing_is_foreseen_of_a_search_that_is_done():
    search, _ = half_done("adaptive", 0, 60)
    assert search.done and ahead(search, 15) == []
    search, _ = half_done("adaptive", 0, 1)
    assert ahead(search, 0) == []


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_decisions_are_the_same_and_most_answers_are_wanted(policy):
    wanted = foreseen = 0
    for seed in range(4):
        usual, truth = half_done(policy, seed, 200)
        search, _ = half_done(policy, seed, 0)
        early: set[int] = set()
        while not search.done:
            leaves = [leaf for ask in search.wishes() for leaf in ask.leaves]
            chosen = [leaf for _, leaf in ahead(search, -len(leaves) % 15)]
            early.update(chosen)
            answer(search, leaves + chosen, truth)
            search.catch_up()
        assert set(search.decisions) == set(usual.decisions)
        foreseen += len(early)
        wanted += sum(usual.was_asked(leaf) for leaf in early)
    assert wanted >= 0.6 * foreseen
    assert foreseen > 0 or policy in ("paper", "target")  # which draw afresh, or decide no cluster


@pytest.mark.parametrize(
    ("free", "pages", "least", "places"),
    [
        ({}, 0, 5, {}),
        ({3: 4}, 1, 1, {3: 4}),
        ({3: 4, 5: 10}, 9, 3, {3: 4, 5: 10}),
        ({3: 4, 5: 10}, 2, 5, {3: 34, 5: 25}),
        ({3: 4, 5: 10, 6: 0}, 3, 6, {3: 19, 5: 25, 6: 15}),
    ],
)
def test_places(free, pages, least, places):
    assert places_ahead(free, pages, least, 15) == places
