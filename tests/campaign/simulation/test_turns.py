"""Simulated turns: what is published when, and how often annotators wait."""

from __future__ import annotations

import numpy as np
import pytest

from campaign.search.policies import Adaptive, Paper
from campaign.simulation.annotators import Annotators
from campaign.simulation.populations import class_sizes, sample_population
from campaign.simulation.turns import PAGE_SIZE, Turns, run_turns


@pytest.fixture(scope="module")
def population():
    return sample_population(class_sizes(2400, 3, 0.0), 4)


@pytest.mark.parametrize("policy", [Adaptive(), Paper()], ids=lambda policy: policy.name)
@pytest.mark.parametrize("pages_a_turn", [None, 2])
def test_asking_ahead_decides_alike_in_fewer_turns(population, policy, pages_a_turn):
    thresholds = {c.class_id: c.thresholds(0.75, 0.85) for c in population}
    runs = [
        run_turns(
            population,
            policy,
            thresholds,
            Annotators(error=0.05),
            seed=1,
            pages_a_turn=pages_a_turn,
            least_pages=least,
        )
        for least in (None, 3)
    ]
    for run in runs:
        assert all(search.done for search in run.searches.values())
        assert run.questions == sum(search.questions for search in run.searches.values())
    usual, early = runs
    for key, search in usual.searches.items():
        assert set(search.decisions) == set(early.searches[key].decisions)
    assert len(early.published) <= len(usual.published)
    assert early.waits() <= usual.waits()
    assert usual.questions <= early.questions <= 1.06 * usual.questions  # a class of 800 masks has 180 questions


def test_short_pages_wait_for_the_class_to_have_no_open_question(population):
    thresholds = {c.class_id: c.thresholds(0.75, 0.85) for c in population}
    one = run_turns(population[:1], Adaptive(), thresholds, Annotators(), seed=1, pages_a_turn=1)
    every = run_turns(population[:1], Adaptive(), thresholds, Annotators(), seed=1)
    assert one.questions == every.questions
    assert one.published.max() <= every.published.max() + PAGE_SIZE


@pytest.mark.parametrize(
    ("published", "searching", "of_all", "of_searching"),
    [
        ([], [], 0, 0),
        ([40, 90, 30, 20], [2, 2, 2, 1], 1, 0),
        ([40, 29, 14, 1], [2, 2, 1, 1], 3, 3),
        ([5, 5], [1, 1], 2, 2),
    ],
)
def test_waits_are_the_turns_at_the_end_that_publish_under_a_page_a_class(published, searching, of_all, of_searching):
    turns = Turns(np.array(published, int), np.array(searching, int), {})
    assert turns.waits(2) == of_all
    assert turns.waits() == of_searching
