"""Budgets, and what is left of one is expected to buy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.cluster.hierarchy import linkage

from campaign.clustering import Tree
from campaign.records.verdict import Verdict
from campaign.search.forecast import Budget, forecast
from campaign.search.policies import Adaptive, Paper
from campaign.search.thresholds import learn_thresholds
from campaign.search.tree_search import Search
from ml_backend.errors import InputError


@pytest.mark.parametrize(
    ("given", "questions"),
    [
        ({}, None),
        ({"questions": 500}, 500),
        ({"hours": 1}, 1800),
        ({"hours": 1, "questions": 2000, "seconds_per_answer": 1.5}, 2000),
        ({"money": 30, "money_per_hour": 20}, 2700),
        ({"questions": 0, "hours": 1}, 0),
    ],
)
def test_budget_as_questions(given, questions):
    assert Budget(**given).as_questions() == questions


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"hours": -1}, "hours: expected no less than 0, got -1"),
        ({"money": 5}, "money_per_hour: expected what an annotator's hour costs, got None"),
        ({"seconds_per_answer": 0}, "seconds_per_answer: expected a positive number of seconds, got 0"),
    ],
)
def test_bad_budget(given, message):
    with pytest.raises(InputError) as error:
        Budget(**given)
    assert str(error.value) == message


def classes(n: int, seed: int) -> tuple[Search, np.ndarray]:
    """A search over blobs of which some are good, with a prior learned from others of their kind."""
    rng = np.random.default_rng(seed)

    def draw(count: int) -> tuple[Tree, np.ndarray]:
        blob = rng.integers(0, 12, count)
        quality = np.array([0.98, 0.95, 0.92, 0.9, 0.97, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05])[blob]
        score = np.clip(0.2 + 0.6 * quality + rng.normal(0, 0.08, count), 0.01, 0.99)
        points = np.column_stack([np.cos(blob), np.sin(blob), score]) + rng.normal(0, 0.04, (count, 3))
        return Tree.build(linkage(points, "complete"), score), rng.random(count) < quality

    heldout, correct = draw(600)
    thresholds = learn_thresholds(heldout, heldout.mean_score[:600], correct)
    tree, truth = draw(n)
    return Search(tree, Adaptive(), thresholds, seed), truth


def gained(search: Search, truth: np.ndarray, questions: int) -> int:
    """Masks that so many questions bring."""
    search.budget = questions
    inside: set[int] = set()
    while not search.done:
        for ask in search.step(limit=1):
            for leaf in ask.leaves:
                search.answer(leaf, int(truth[leaf]))
    inside = {leaf for leaf in search.accepted() if search.verdict(leaf) != Verdict.NO}
    return len(inside | {leaf for leaf in range(search.tree.n) if search.verdict(leaf) == Verdict.YES})


def test_forecast_comes_near_what_happens():
    search, _ = classes(1500, 0)
    expected = forecast({0: search}, 100, points=4, draws=10)
    assert [p.questions for p in expected] == sorted({p.questions for p in expected}) and expected[-1].questions <= 100
    assert all(p.low <= p.masks <= p.high for p in expected)
    happened = np.mean([gained(classes(1500, seed)[0], classes(1500, seed)[1], 100) for seed in range(3)])
    assert expected[-1].masks == pytest.approx(happened, rel=0.35)


def test_forecast_leaves_the_searches_alone_and_repeats():
    search, truth = classes(400, 1)
    for ask in search.step(limit=5):
        for leaf in ask.leaves[:3]:
            search.answer(leaf, int(truth[leaf]))
    before = search.questions, search.open, search.pending, list(search.decisions)
    first = forecast({0: search}, 60, draws=3, seed=2)
    assert first == forecast({0: search}, 60, draws=3, seed=2)
    assert (search.questions, search.open, search.pending, list(search.decisions)) == before


def test_forecast_of_the_published_rule():
    search, _ = classes(400, 3)
    paper = Search(search.tree, Paper(), search.thresholds, 3)
    prospects = forecast({0: paper}, 200, draws=3)
    assert prospects[-1].masks > 50


def test_bad_forecast():
    with pytest.raises(InputError, match="forecast: expected at least one question"):
        forecast({}, 0)
