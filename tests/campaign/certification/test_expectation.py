"""What is expected of masks: near what is true, though the chances are off, and the less certain the less is known."""

from __future__ import annotations

import numpy as np
import pytest

from campaign.certification.expectation import Chosen, Known, Tally, World, expected, like_pool

IMAGES = 60


def images_of_masks(seed: int, images: int = IMAGES, off: float = 0.0, alike: float = 0.5):
    """(chance, correct, image) of 30 masks in each image; `off` is added to the logit that comes true."""
    rng = np.random.default_rng(seed)
    image = np.repeat(np.arange(images), 30)
    value = rng.normal(1.0, 1.5, len(image))
    effect = rng.normal(0, alike, images)[image]
    correct = rng.random(len(image)) < 1 / (1 + np.exp(-(value + off + effect)))
    return 1 / (1 + np.exp(-value / np.sqrt(1 + 0.346 * alike**2))), correct, image


def set_of(seed: int, off: float = 0.0, cut: float = 0.7):
    """(masks of a pool that would be delivered, their true precision, the true recall, world)."""
    chance, correct, _ = images_of_masks(seed, 200, off)
    inside = chance >= cut
    held = images_of_masks(seed + 10_000, off=off)
    known = Known(*held, IMAGES)
    rng = np.random.default_rng(seed + 5)
    objects = np.bincount(held[2], held[1]) + rng.poisson(4.0, IMAGES)
    in_pool = correct.sum() + rng.poisson(4.0 * 200)
    world = World(objects, 200, Tally.of(chance), known)
    masks = Chosen(Tally.of(chance[inside]), 0, np.zeros(1))
    return masks, known, world, correct[inside].mean(), correct[inside].sum() / in_pool


@pytest.mark.parametrize("off", [0.0, -0.6])
def test_intervals_hold_the_truth_though_the_chances_are_off(off):
    inside = np.zeros(2)
    for seed in range(60):
        masks, known, world, precision, recall = set_of(seed, off)
        found = expected(masks, known, world, seed)
        inside += (
            found.precision.low <= precision <= found.precision.high,
            found.recall.low <= recall <= found.recall.high,
        )
    assert (inside >= 0.8 * 60).all(), inside


def test_more_held_out_images_make_it_surer_and_the_same_input_says_the_same():
    masks, known, world, *_ = set_of(1)
    few = known.image < 10
    small = Known(known.chance[few], known.correct[few], known.image[few], 10)
    wide, narrow = (expected(masks, k, None, 1).precision for k in (small, known))
    assert wide.high - wide.low > 1.2 * (narrow.high - narrow.low)
    assert expected(masks, known, world, 1) == expected(masks, known, world, 1)


def test_draws_correct_what_held_out_masks_of_another_kind_say():
    masks, known, *_ = set_of(2)
    chance, correct, image = images_of_masks(77, 200, off=-1.5)
    before = expected(masks, known, None, 1).precision
    after = expected(masks, known.beside(chance[:2000], correct[:2000], image[:2000]), None, 1).precision
    assert after.value < before.value - 0.03


def test_what_votes_overlook_is_taken_off_and_widens_it():
    masks, known, *_ = set_of(3)
    overlooked = np.random.default_rng(0).normal(0.05, 0.03, 500) * masks.masks
    blind, seeing = (expected(Chosen(masks.unasked, 0, o), known, None, 1).precision for o in (np.zeros(1), overlooked))
    assert seeing.value == pytest.approx(blind.value - 0.05, abs=0.01)
    assert seeing.high - seeing.low > blind.high - blind.low


def test_nothing_is_expected_of_no_masks_or_by_next_to_none():
    masks, known, world, *_ = set_of(4)
    none = Chosen(Tally.of(np.zeros(0)), 0, np.zeros(1))
    assert expected(none, known, world, 1).precision is None
    few = Known(known.chance[:20], known.correct[:20], known.image[:20], IMAGES)
    assert expected(masks, few, world, 1).precision is None
    assert expected(masks, known, None, 1).recall is None


def test_voted_masks_alone_are_certain_but_for_what_votes_overlook():
    _, known, *_ = set_of(5)
    found = expected(Chosen(Tally.of(np.zeros(0)), 50, np.zeros(1)), known, None, 1).precision
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)


def test_held_out_chances_are_stretched_as_those_of_the_pool():
    chance, correct, _ = images_of_masks(6)
    assert like_pool(chance, correct, (0.0, 1.0)) is chance
    other = like_pool(chance, correct, (0.4, 2.0))
    assert other.mean() == pytest.approx(correct.mean(), abs=0.01)
    assert other.std() > chance.std()
