"""Which predictions are worth keeping."""

import numpy as np
import pytest

from campaign.search.least_score import LEAST_CHANCE, MOST_PER_OBJECT, learn_least_score, set_least_score


def masks(n, chance, seed=0):
    """Scores, evenly spread, and which masks are correct, each with the chance that goes with its score."""
    scores = (np.arange(n) + 0.5) / n
    return scores, np.random.default_rng(seed).random(n) < chance(scores)


@pytest.mark.parametrize("seed", range(10))
def test_what_is_dropped_is_hardly_ever_correct(seed):
    """On other masks of the same kind, too."""
    learned = learn_least_score(*masks(3000, lambda s: s**4, seed), objects=1000)
    scores, correct = masks(3000, lambda s: s**4, seed + 100)
    dropped = scores < learned.least
    assert learned.reason == "chance" and 0.1 < dropped.mean() < 0.6
    assert correct[dropped].mean() < 1.5 * LEAST_CHANCE
    assert correct[~dropped].sum() > 0.97 * correct.sum()


def test_figures_are_those_of_the_masks():
    scores, correct = np.linspace(0, 1, 500), np.linspace(0, 1, 500) > 0.5
    learned = learn_least_score(scores, correct, 200)
    assert (learned.masks, learned.kept, learned.correct, learned.correct_kept) == (500, 250, 250, 250)
    assert (scores >= learned.least).sum() == 250


@pytest.mark.parametrize(
    ("scores", "correct", "objects", "kept", "reason"),
    [
        ([], [], 5, 0, "nothing"),
        (np.linspace(0, 1, 40), np.zeros(40, bool), 20, 40, "nothing"),
        (np.linspace(0, 1, 400), np.zeros(400, bool), 200, 0, "chance"),
        (np.linspace(0, 1, 400), np.ones(400, bool), 20, 120, "count"),
        (np.linspace(0, 1, 400), np.ones(400, bool), 0, 400, "nothing"),
        (np.linspace(0, 1, 400), np.ones(400, bool), 1, 60, "count"),
        (np.full(400, 0.5), np.arange(400) < 200, 400, 400, "nothing"),
    ],
    ids=["none", "too few to say", "hopeless", "doubles", "no object known", "one object", "one score"],
)
def test_rules(scores, correct, objects, kept, reason):
    learned = learn_least_score(np.asarray(scores, np.float32), np.asarray(correct, bool), objects)
    assert (learned.kept, learned.reason) == (kept, reason)
    assert (np.asarray(scores, np.float32) >= learned.least).sum() == kept
    assert MOST_PER_OBJECT == 6


def test_in_a_hopeless_class_what_scores_more_than_all_is_kept():
    least = learn_least_score(np.linspace(0, 0.5, 400).astype(np.float32), np.zeros(400, bool), 200).least
    assert np.float32(0.5) < least < 0.5001


def test_what_the_lead_set_goes_before_what_was_learned():
    scores, correct = masks(100, lambda s: s)
    assert set_least_score(0.0, scores, correct, 50).kept == 100
    high = set_least_score(0.75, scores, correct, 50)
    assert (high.kept, high.least, high.reason) == (25, 0.75, "set")
