"""The promise holds: in the regimes where certificates fail, at most the nominal share of promises is false."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from campaign.certification.passing import Passing, no_passing, passing
from campaign.certification.promise import Frozen, Promise, Voted, digest_of, freeze, promise, share_of
from campaign.certification.stopping import is_worth_going_on
from campaign.quality.eyes import Eyes, fit_eyes
from campaign.records.verdict import Verdict
from campaign.search.sampling import draw_keys

RUNS, ALPHA = 400, 0.05
# Of 400 runs with a true error of 5 % more than 27 fail with a chance of 3 %; betting stays well below.
MOST_FALSE = 20


def frozen_of(chance: np.ndarray, seed: int, target: float, planned: int | None = None, voted: int = 0) -> Frozen:
    order = np.argsort(-chance, kind="stable")
    keys = draw_keys(seed, 5, np.arange(len(chance)))
    own = chance[order]
    return freeze(own, own, keys, voted, target, len(own) if planned is None else planned, sets=8)


def looks(frozen: Frozen, correct: np.ndarray, draws: list[int], voted: Voted, eyes: Passing) -> list[Promise]:
    """The promise after each of so many draws; `correct` in frozen order, answered as it is."""
    promises = []
    for count in draws:
        verdict = np.full(len(frozen), -1, np.int8)
        rows = frozen.order[:count]
        verdict[rows] = np.where(correct[rows], Verdict.YES, Verdict.NO)
        promises.append(promise(frozen, verdict, voted, eyes, ALPHA))
    return promises


def kept(frozen: Frozen, correct: np.ndarray, draws: int, size: int, voted_right: int = 0, voted: int = 0) -> float:
    """The true precision of what is delivered after so many draws."""
    drawn = np.zeros(len(frozen), bool)
    drawn[frozen.order[:draws]] = True
    inside = np.arange(len(frozen)) < size
    delivered = (inside & ~(drawn & ~correct)) | (drawn & correct)
    masks = delivered.sum() + voted
    return float((correct[delivered].sum() + voted_right) / masks) if masks else 1.0


def honest(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    chance = rng.beta(4, 1, 300)
    return chance, rng.random(300) < chance


def reversed_(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    chance, correct = honest(rng)
    return 1 - chance, correct


def overconfident(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return np.full(300, 0.97) + rng.normal(0, 0.001, 300), rng.random(300) < 0.84


def giant_cluster(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One cluster of quality 0.75 that looks good, among others that are."""
    good = rng.random(300) < 0.5
    return np.where(good, 0.93, 0.94), np.where(good, rng.random(300) < 0.92, rng.random(300) < 0.75)


def hundred(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    chance = rng.beta(6, 1, 100)
    return chance, rng.random(100) < chance - 0.05


@pytest.mark.parametrize("world", [honest, reversed_, overconfident, giant_cluster, hundred])
def test_no_more_promises_are_false_than_the_error_probability_allows_however_often_one_looks(world):
    false = 0
    for seed in range(RUNS):
        chance, correct = world(np.random.default_rng((seed, 1)))
        frozen = frozen_of(chance, seed, 0.85)
        correct = correct[np.argsort(-chance, kind="stable")]
        draws = np.linspace(len(frozen) // 10, len(frozen) * 0.6, 10).astype(int).tolist()
        promises = looks(frozen, correct, draws, Voted(np.zeros(0)), no_passing())
        false += any(p.met and kept(frozen, correct, p.draws, p.size) < 0.85 - 1e-9 for p in promises)
    assert false <= MOST_FALSE


def test_the_bound_of_a_promise_that_misses_its_target_is_true_as_well():
    false = missed = 0
    for seed in range(RUNS):
        rng = np.random.default_rng((seed, 2))
        correct = rng.random(300) < 0.7
        frozen = frozen_of(np.linspace(0.95, 0.9, 300), seed, 0.9)
        (p,) = looks(frozen, correct, [120], Voted(np.zeros(0)), no_passing())
        missed += not p.met
        false += kept(frozen, correct, p.draws, p.size) < p.bound
    assert missed > RUNS * 0.95 and false <= MOST_FALSE


def test_a_good_set_is_promised_by_few_draws_and_more_of_it_by_more():
    sizes = []
    rng = np.random.default_rng(3)
    chance = np.sort(rng.beta(9, 1, 4000))[::-1]
    correct = rng.random(4000) < chance
    frozen = frozen_of(chance, 7, 0.85)
    for p in looks(frozen, correct, [0, 300, 900], Voted(np.zeros(0)), no_passing()):
        sizes.append(p.size if p.met else 0)
    assert sizes[0] == 0 < sizes[1] <= sizes[2] == 4000


@lru_cache
def eyes_that_cut(cut: float, seed: int) -> Eyes:
    gold = np.random.default_rng((seed, 9)).uniform(0.6, 0.95, 150)
    return fit_eyes(gold, gold >= cut, np.full(150, "a"), 0.75, draws=100, seed=seed)


@pytest.mark.parametrize("cut", [0.70, 0.75, 0.80])
def test_the_promise_holds_for_the_iou_asked_for_whatever_the_eyes_cut(cut):
    """Errors lie near the threshold, people vote by their own, and gold alone shows it."""
    false = met = 0
    for seed in range(RUNS):
        rng = np.random.default_rng((seed, 4))
        iou = np.clip(rng.normal(0.85, 0.07, 500), 0, 1)
        held = np.clip(rng.normal(0.85, 0.07, 800), 0, 1)
        eyes = eyes_that_cut(cut, seed % 25)
        chance = np.full(500, 0.9) + rng.normal(0, 1e-3, 500)
        overlooked = passing(eyes, held, np.full(800, 0.9), np.arange(800) // 8, 0.75, seed)
        frozen = frozen_of(chance, seed, 0.85)
        order = np.argsort(-chance, kind="stable")
        (p,) = looks(frozen, (iou >= cut)[order], [250], Voted(np.zeros(0)), overlooked)
        drawn = np.zeros(500, bool)
        drawn[frozen.order[:250]] = True
        delivered = ((np.arange(500) < p.size) & ~(drawn & (iou < cut)[order])) | (drawn & (iou >= cut)[order])
        precision = (iou >= 0.75)[order][delivered].mean()
        met += p.met
        false += precision < p.bound
    assert false <= MOST_FALSE
    assert met > 0


def test_what_leaves_and_enters_after_the_promise_is_taken_for_the_worst():
    rng = np.random.default_rng(5)
    chance = np.sort(rng.beta(9, 1, 2000))[::-1]
    correct = rng.random(2000) < chance
    frozen = frozen_of(chance, 1, 0.85)
    (before,) = looks(frozen, correct, [600], Voted(np.zeros(0)), no_passing())
    for change in ({"removed": 150}, {"added": 150}):
        (after,) = looks(frozen, correct, [600], Voted(np.zeros(0), **change), no_passing())
        assert before.met and (not after.met or after.size < before.size)
    (after,) = looks(frozen, correct, [600], Voted(np.zeros(0), removed=600), no_passing())
    assert not after.met


def test_masks_voted_yes_make_room_for_others():
    rng = np.random.default_rng(6)
    chance = np.sort(rng.beta(5, 1, 2000))[::-1]
    correct = rng.random(2000) < chance
    with_votes = looks(frozen_of(chance, 1, 0.9, 1000, 3000), correct, [500], Voted(np.ones(3000)), no_passing())[0]
    without = looks(frozen_of(chance, 1, 0.9, 1000), correct, [500], Voted(np.zeros(0)), no_passing())[0]
    assert with_votes.met and with_votes.size > (without.size if without.met else 0)


def test_only_draws_up_to_the_first_open_one_count():
    rng = np.random.default_rng(7)
    correct = rng.random(400) < 0.95
    frozen = frozen_of(np.linspace(0.99, 0.9, 400), 2, 0.85)
    verdict = np.full(400, -1, np.int8)
    verdict[frozen.order[:200]] = np.where(correct[frozen.order[:200]], Verdict.YES, Verdict.NO)
    verdict[frozen.order[50]] = -1
    assert promise(frozen, verdict, Voted(np.zeros(0)), no_passing(), ALPHA).draws == 50


def test_the_draws_of_a_set_are_without_replacement_and_in_proportion_to_weight():
    """Of two kinds of masks the share of first draws is that of their weights."""
    chance = np.where(np.arange(200) < 100, 0.995, 0.6)
    first = [int(frozen_of(chance, seed, 0.9).order[0]) for seed in range(3000)]
    weight = frozen_of(chance, 0, 0.9).weight
    share = weight[:100].sum() / weight.sum()
    assert np.mean(np.array(first) < 100) == pytest.approx(share, abs=3 * np.sqrt(share * (1 - share) / 3000))
    assert sorted(frozen_of(chance, 0, 0.9).order.tolist()) == list(range(200))


def test_error_probabilities_of_all_attempts_stay_within_the_one_asked_for():
    assert sum(share_of(n, 0.05) for n in range(1, 60)) <= 0.05
    assert share_of(1, 0.05) > share_of(2, 0.05) > share_of(3, 0.05)


def test_asking_goes_on_while_larger_sets_are_in_reach_and_ends_with_the_outermost():
    rng = np.random.default_rng(8)
    chance = np.sort(rng.beta(9, 1, 5000))[::-1]
    correct = rng.random(5000) < chance
    frozen, none = frozen_of(chance, 3, 0.85), Voted(np.zeros(0))

    def at(count: int, price: float) -> bool:
        verdict = np.full(5000, -1, np.int8)
        rows = frozen.order[:count]
        verdict[rows] = np.where(correct[rows], Verdict.YES, Verdict.NO)
        now = promise(frozen, verdict, none, no_passing(), ALPHA)
        return is_worth_going_on(frozen, verdict, none, no_passing(), ALPHA, price, now)

    assert at(30, 0.6)
    assert not at(5000, 0.6)


def test_one_exact_set_has_one_digest():
    assert digest_of(np.array([3, 1, 2])) == digest_of(np.array([1, 2, 3])) != digest_of(np.array([1, 2]))
