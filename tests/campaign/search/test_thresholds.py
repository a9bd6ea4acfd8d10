"""Learning `K_pr` and `K_pa` from held-out masks."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.cluster.hierarchy import linkage

from campaign.clustering import Tree
from campaign.search.thresholds import Thresholds, learn_thresholds
from campaign.search.truth import cluster_quality
from ml_backend.errors import InputError


def heldout(n: int, seed: int, good_above: float = 0.6) -> tuple[Tree, np.ndarray, np.ndarray]:
    """Masks on a line ordered by score; correct where the score is above `good_above`, give or take."""
    rng = np.random.default_rng(seed)
    scores = rng.random(n)
    correct = scores + rng.normal(0, 0.05, n) > good_above
    tree = Tree.build(linkage(scores[:, None], "complete"), scores)
    return tree, scores, correct


def test_thresholds_are_learned():
    tree, scores, correct = heldout(2000, 0)
    learned = learn_thresholds(tree, scores, correct)
    assert 0.3 < learned.k_pr < 0.6  # clusters wholly below 0.5 hold nothing correct
    assert 0.5 < learned.k_pa < 0.75  # clusters wholly above 0.7 hold nothing else
    curves = learned.curves
    assert sum(curves.count) == np.count_nonzero(tree.size >= 5)
    assert curves.high[-1] == 1 and curves.high[2] == 0 and curves.low[2] == 1 and curves.low[-1] == 0
    assert np.all(np.diff(curves.high_fit) >= 0) and np.all(np.diff(curves.low_fit) <= 0)


def test_rejection_keeps_the_correct_masks():
    # one root of low mean score over a fifth of correct masks: no k_pr may throw these away
    rng = np.random.default_rng(1)
    scores = np.concatenate([rng.uniform(0, 0.3, 900), rng.uniform(0.8, 1, 100)])
    correct = np.arange(1000) >= 900
    tree = Tree.build(linkage(scores[:, None], "complete"), scores)
    learned = learn_thresholds(tree, scores, correct)
    assert learned.k_pr < tree.mean_score[tree.root] and "k_pr lowered" in learned.note


@pytest.mark.parametrize(
    ("n", "correct", "reason"),
    [
        (20, None, "held-out clusters"),
        (400, False, "no held-out cluster of high quality"),
        (1, True, "0 held-out clusters"),
    ],
)
def test_small_or_hopeless_heldout_falls_back(n, correct, reason):
    rng = np.random.default_rng(0)
    scores = rng.random(n)
    links = linkage(scores[:, None], "complete") if n > 1 else np.zeros((0, 4))
    tree = Tree.build(links, scores)
    truth = scores > 0.5 if correct is None else np.full(n, correct)
    learned = learn_thresholds(tree, scores, truth, fallback=Thresholds(0.1, 0.6))
    assert (learned.k_pr, learned.k_pa) == (0.1, 0.6)
    assert learned.note.startswith("not learned: ") and reason in learned.note


def test_cluster_quality():
    tree = Tree.build(np.array([[0, 1, 0.1, 2], [2, 3, 0.2, 3.0]]), np.array([0.9, 0.5, 0.1]))
    assert cluster_quality(tree, np.array([1, 0, 0])).tolist() == [1, 0, 0, 0.5, pytest.approx(1 / 3)]


def test_bad_input():
    tree, scores, correct = heldout(10, 0)
    with pytest.raises(InputError, match="correct: expected shape"):
        learn_thresholds(tree, scores, correct[:-1])
    with pytest.raises(InputError, match=r"k_pr: expected no more than k_pa, 0\.3, got 0\.5"):
        Thresholds(0.5, 0.3)
