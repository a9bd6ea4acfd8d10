"""Betting against too many wrong masks."""

from __future__ import annotations

import numpy as np

from campaign.certification.betting import Draws, log_wealth


def draws_of(wrong: np.ndarray, expected: np.ndarray, weight: np.ndarray, order: np.ndarray, count: int) -> Draws:
    rows = order[:count]
    spread = float((expected * (1 - expected) / weight).sum() / weight.sum())
    return Draws(
        weight[rows], expected[rows], wrong[rows], float(weight.sum()), float(expected.sum()), spread,
        float(((1 - expected) / weight).max()),
    )  # fmt: skip


def weighted_order(weight: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.argsort(rng.exponential(size=len(weight)) / weight)


def test_a_true_doubt_is_refuted_no_more_often_than_allowed():
    """At the exact number of wrong masks, with weights and expectations that have nothing to do with the truth."""
    refuted = 0
    for seed in range(600):
        rng = np.random.default_rng(seed)
        wrong = rng.random(200) < 0.12
        expected, weight = rng.uniform(0.01, 0.4, 200), rng.uniform(0.1, 1.0, 200)
        own = draws_of(wrong, expected, weight, weighted_order(weight, rng), 150)
        refuted += log_wealth(own, int(wrong.sum()), 30.0).max() >= np.log(20)
    assert refuted <= 30


def test_wealth_is_one_on_average_where_the_doubt_is_just_true():
    wealth = []
    for seed in range(3000):
        rng = np.random.default_rng(seed)
        wrong = np.arange(60) < 9
        own = draws_of(wrong, np.full(60, 0.1), np.ones(60), rng.permutation(60), 20)
        wealth.append(np.exp(log_wealth(own, 9, 12.0)[-1]))
    assert abs(np.mean(wealth) - 1) < 4 * np.std(wealth) / np.sqrt(len(wealth))


def test_a_false_doubt_is_refuted_sooner_with_a_good_model():
    def draws_needed(expected: np.ndarray) -> float:
        needed = []
        for seed in range(30):
            rng = np.random.default_rng(seed)
            wrong = np.zeros(4000, bool)
            wrong[:200] = True
            weight = np.sqrt(expected * (1 - expected) + 0.01)
            own = draws_of(wrong, expected, weight, weighted_order(weight, rng), 2500)
            path = log_wealth(own, 400, 430.0)
            needed.append(int(np.argmax(path >= np.log(20))) if path.max() >= np.log(20) else 2500)
        return float(np.median(needed))

    blind = draws_needed(np.full(4000, 0.05))
    seeing = draws_needed(np.where(np.arange(4000) < 400, 0.4, 0.01))
    assert seeing < 0.85 * blind < 2500


def test_wealth_rises_with_what_is_doubted_and_is_gone_once_that_many_were_found():
    rng = np.random.default_rng(1)
    wrong = rng.random(300) < 0.1
    own = draws_of(wrong, np.full(300, 0.1), np.ones(300), rng.permutation(300), 200)
    found = int(own.wrong.sum())
    path = [log_wealth(own, n, 60.0)[-1] for n in range(found + 1, 120)]
    assert (np.diff(path) >= -1e-12).all()
    assert log_wealth(own, found, 60.0).max() == -np.inf


def test_no_draws_say_nothing():
    none = Draws(np.zeros(0), np.zeros(0), np.zeros(0, bool), 10.0, 1.0, 1.0, 1.0)
    assert log_wealth(none, 5, 5.0).max() == 0.0
