"""The verifier: what it learns from held-out truth, from answers, and from answers about the same image."""

from __future__ import annotations

import numpy as np
import pytest

from campaign.search.verifier import (
    Projection,
    Rows,
    calibrate,
    fit_verifier,
    grow,
    growth_milestone,
    logit,
    milestone,
    next_milestone,
)


def world(n: int, seed: int, effect: float = 0.0, shift: float = 0.0, images: int = 60, of: int = 0):
    """Masks of images numbered from `of`: (rows, correct); two inputs that tell, one that does not."""
    rng = np.random.default_rng((seed, 3))
    inputs = rng.normal(size=(n, 3)).astype(np.float32)
    image = rng.integers(0, images, n) + of
    tilt = rng.normal(0, effect, images) if effect else np.zeros(images)
    value = 1.5 * inputs[:, 0] + inputs[:, 1] + shift + tilt[image - of]
    return Rows(inputs, np.zeros(n, np.int64), image.astype(np.int64)), rng.random(n) < 1 / (1 + np.exp(-value))


def none_of(rows: Rows) -> Rows:
    return rows.select(np.zeros(0, np.int64))


def loss(chance: np.ndarray, correct: np.ndarray) -> float:
    p = np.clip(chance, 1e-6, 1 - 1e-6)
    return float(-np.where(correct, np.log(p), np.log(1 - p)).mean())


def test_heldout_truth_alone_tells_good_masks_from_bad():
    heldout, truth = world(1500, 1)
    pool, correct = world(2000, 2, of=1000)
    model = fit_verifier(heldout, truth, none_of(pool), np.zeros(0, bool), seed=0)
    chance = model.chances(pool)
    assert loss(chance, correct) < 0.8 * loss(np.full(2000, truth.mean()), correct)
    assert abs(chance.mean() - correct.mean()) < 0.05


def test_answers_tell_of_a_pool_that_is_better_than_the_heldout_images():
    heldout, truth = world(1500, 1)
    pool, correct = world(3000, 2, shift=1.2, of=1000)
    asked = np.arange(0, 3000, 10)
    rest = np.setdiff1d(np.arange(3000), asked)
    before = fit_verifier(heldout, truth, none_of(pool), np.zeros(0, bool), 0).chances(pool)
    after = fit_verifier(heldout, truth, pool.select(asked), correct[asked], 0).chances(pool)
    off = [abs(c[rest].mean() - correct[rest].mean()) for c in (before, after)]
    assert off[1] < 0.5 * off[0]


def test_an_answer_tells_of_the_other_masks_of_its_image():
    heldout, truth = world(1500, 1, effect=1.0)
    pool, correct = world(3000, 2, effect=1.5, of=1000)
    asked = np.arange(0, 3000, 6)
    rest = np.setdiff1d(np.arange(3000), asked)
    model = fit_verifier(heldout, truth, pool.select(asked), correct[asked], 0)
    nowhere = Rows(pool.inputs, pool.class_id, np.full(3000, -1))
    assert loss(model.chances(pool)[rest], correct[rest]) < 0.95 * loss(model.chances(nowhere)[rest], correct[rest])
    assert set(model.effects) <= set(pool.image.tolist())


def test_the_order_of_the_rows_does_not_matter():
    heldout, truth = world(600, 1)
    pool, correct = world(900, 2, of=1000)
    asked = np.arange(200)
    first = fit_verifier(heldout, truth, pool.select(asked), correct[asked], 3)
    mixed, other = np.random.default_rng(1).permutation(600), np.random.default_rng(2).permutation(asked)
    again = fit_verifier(heldout.select(mixed), truth[mixed], pool.select(other), correct[other], 3)
    assert np.array_equal(first.chances(pool), again.chances(pool))
    assert np.array_equal(first.heldout_chance[mixed], again.heldout_chance)


def test_what_is_said_of_heldout_masks_was_learned_from_other_images():
    """With inputs that tell nothing, trees that had seen the masks would know them all the same."""
    rng = np.random.default_rng(4)
    rows = Rows(rng.normal(size=(600, 20)).astype(np.float32), np.zeros(600, np.int64), np.arange(600) // 10)
    truth = rng.random(600) < 0.5
    model = fit_verifier(rows, truth, none_of(rows), np.zeros(0, bool), 0)
    assert loss(model.chances(rows), truth) < 0.5 < loss(model.heldout_chance, truth)


def test_a_forest_is_calibrated_anew_without_growing():
    heldout, truth = world(800, 1)
    pool, correct = world(1200, 2, shift=1.0, of=1000)
    forest = grow(heldout, truth, none_of(pool), np.zeros(0, bool), 0)
    few, many = (calibrate(forest, heldout, truth, pool.select(np.arange(n)), correct[:n]) for n in (20, 400))
    assert few.forest is many.forest is forest
    assert many.calibration[0] > few.calibration[0] > 0
    assert np.array_equal(many.chances(pool), many.chances(pool, forest.chances(pool)))


def test_classes_of_few_masks_share_trees_and_unknown_ones_have_a_chance():
    heldout, truth = world(1200, 1)
    classes = np.where(np.arange(1200) < 1000, 1, 2)
    rows = Rows(heldout.inputs, classes, heldout.image)
    model = fit_verifier(rows, truth, none_of(rows), np.zeros(0, bool), 0)
    assert set(model.forest.trees) == {1, None}
    unknown = Rows(heldout.inputs[:5], np.full(5, 9), heldout.image[:5])
    assert ((model.chances(unknown) > 0) & (model.chances(unknown) < 1)).all()


@pytest.mark.parametrize("known", [0, 5, 29])
def test_with_next_to_nothing_known_the_share_of_correct_masks_is_all_there_is(known):
    heldout, truth = world(known, 1) if known else (none_of(world(5, 1)[0]), np.zeros(0, bool))
    model = fit_verifier(heldout, truth, none_of(heldout), np.zeros(0, bool), 0)
    pool, _ = world(10, 2)
    assert np.ptp(model.chances(pool)) == 0
    assert model.chances(pool)[0] == pytest.approx((truth.sum() + 1) / (known + 2), abs=1e-6)


def test_milestones_rise_and_say_when_the_next_one_comes():
    numbers = list(range(0, 3000, 7))
    assert all(milestone(n) <= n < next_milestone(n) for n in numbers)
    assert sorted({milestone(n) for n in numbers}) == [milestone(m) for m in sorted({milestone(n) for n in numbers})]
    assert all(growth_milestone(n) <= n for n in numbers)


def test_components_are_the_same_in_blocks_and_whatever_the_order_of_memory():
    features = np.random.default_rng(5).normal(size=(500, 40)).astype(np.float16)
    projection = Projection.learn(features, seed=1, components=6)
    whole = projection.apply(features)
    assert whole.shape == (500, 6)
    assert np.allclose(projection.apply(features, block=7), whole, atol=1e-5)
    assert np.allclose(whole.std(axis=0), 1, atol=0.15)
    few = Projection.learn(features[:4], seed=1)
    assert few.apply(features).shape[1] == 3


def test_the_logit_is_clipped():
    assert np.isfinite(logit(np.array([0.0, 1.0]))).all()
