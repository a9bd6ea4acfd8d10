"""The pool's masks nearest to masks that are known to be good."""

from __future__ import annotations

import numpy as np
import pytest

from campaign.report.nearest import nearest_to_good, share_good
from campaign.simulation.mixtures import default_mixture
from ml_backend.errors import InputError


def test_order_and_wrong_neighbours():
    annotated = np.array([[0.0, 0], [10, 0]])
    pool = np.array([[3.0, 0], [1, 0], [9, 0], [0, 2]])
    nearest = nearest_to_good(annotated, np.array([True, False]), pool)
    assert nearest.rows.tolist() == [1, 3, 0]  # the third lies nearer to the wrong mask
    assert nearest.distance == pytest.approx([1, 2, 3]) and nearest.near.tolist() == [0, 0, 0]
    assert share_good(nearest, np.array([0, 1, 1, 0]), (1, 2, 3, 4)) == {1: 1.0, 2: 0.5, 3: pytest.approx(1 / 3)}


def test_neighbours_of_good_masks_are_good():
    mixture, rng = default_mixture(4), np.random.default_rng(0)
    annotated, pool = mixture.sample(800, rng), mixture.sample(10_000, rng)
    correct = pool.iou >= 0.75
    nearest = nearest_to_good(annotated.features, annotated.iou >= 0.75, pool.features, most=300)
    assert share_good(nearest, correct, (300,))[300] > correct.mean() + 0.15


@pytest.mark.parametrize("correct", [np.zeros(3, bool), np.ones(3, bool)])
def test_nothing_to_go_by(correct):
    pool = np.zeros((0, 2)) if correct.any() else np.zeros((4, 2))
    assert len(nearest_to_good(np.zeros((3, 2)), correct, pool)) == 0


def test_bad_shapes():
    with pytest.raises(InputError, match="annotated features, correctness and pool features"):
        nearest_to_good(np.zeros((3, 2)), np.zeros(3), np.zeros((4, 5)))
