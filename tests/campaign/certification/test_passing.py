"""Wrong masks that annotators pass."""

from __future__ import annotations

import numpy as np
import pytest

from campaign.certification.passing import no_passing, passing
from campaign.quality.eyes import Eyes, fit_eyes


def eyes_at(cut: float, answers: int = 2000) -> Eyes:
    iou = np.random.default_rng(1).uniform(0.5, 1.0, answers)
    return fit_eyes(iou, iou >= cut, np.full(answers, "a"), 0.75)


def masks(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    chance = rng.uniform(0.2, 1.0, n)
    return np.clip(0.55 + 0.35 * chance + rng.normal(0, 0.06, n), 0, 1), chance, np.arange(n) // 10


def test_a_generous_eye_passes_the_masks_between_its_cut_and_the_threshold():
    iou, chance, image = masks(4000, 2)
    overlooked = passing(eyes_at(0.70), iou, chance, image, 0.75)
    other, chances, _ = masks(3000, 3)
    truth = ((other >= 0.70) & (other < 0.75)).sum()
    none = np.zeros(len(overlooked.edges) + 1, int)
    assert overlooked.of_all @ overlooked.counts(chances) == pytest.approx(truth, rel=0.12)
    assert overlooked.most(overlooked.counts(chances), none, 0.01) >= truth
    yes = other >= 0.70
    assert overlooked.mean(none, overlooked.counts(chances[yes])) == pytest.approx(truth, rel=0.12)


def test_a_strict_eye_gives_back_what_it_refuses_among_masks_nobody_was_asked_about():
    iou, chance, image = masks(4000, 2)
    overlooked = passing(eyes_at(0.80), iou, chance, image, 0.75)
    none = np.zeros(len(overlooked.edges) + 1, int)
    assert overlooked.mean(overlooked.counts(chance), none) < 0
    assert overlooked.of_all @ overlooked.counts(chance) < 0
    assert overlooked.mean(none, overlooked.counts(chance)) >= 0


def test_more_gold_and_more_heldout_images_narrow_what_is_reckoned_with():
    iou, chance, image = masks(4000, 2)
    few, many = (passing(eyes_at(0.75, n), iou, chance, image, 0.75) for n in (40, 2000))
    none = np.zeros(len(few.edges) + 1, int)
    assert few.most(few.counts(chance), none, 0.01) > 2 * many.most(many.counts(chance), none, 0.01)


def test_where_all_chances_are_the_same_no_bin_is_empty():
    iou, _, image = masks(400, 2)
    overlooked = passing(eyes_at(0.70), iou, np.full(400, 0.9), image, 0.75)
    either = overlooked.most(overlooked.counts(np.array([0.8, 0.95])), overlooked.counts(np.zeros(0)), 0.5)
    assert either > 0


def test_beliefs_tell_a_vote_from_the_truth():
    iou, chance, image = masks(4000, 2)
    beliefs = passing(eyes_at(0.70), iou, chance, image, 0.75).beliefs(chance, chance)
    assert (beliefs.correct() <= beliefs.yes + 1e-12).all() and (beliefs.right() < 1).any()
    sure = no_passing().beliefs(chance, chance)
    assert np.array_equal(sure.correct(), chance) and (sure.right() == 1).all()


def test_without_heldout_masks_annotators_are_taken_at_their_word():
    none = np.zeros(0)
    assert passing(eyes_at(0.75, 10), none, none, none, 0.75).most(np.ones(1), np.ones(1), 0.01) == 0
