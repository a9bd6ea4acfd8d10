"""What counts in the loss of a segmenter."""

import numpy as np
import torch

from ml_backend.interactive.segmenter import Click
from ml_backend.interactive.training import click_weights, mask_losses, pass_weights


def test_cells_near_a_click_count_most_and_without_clicks_all_count_alike():
    assert (click_weights([], 16) == 1).all()
    weights = click_weights([Click(3.5, 10.5, True), Click(12.5, 2.5, False)], 16)
    assert weights.shape == (16, 16) and weights.min() >= 1
    # Of both signs, and falling off with the distance to the nearest one.
    assert weights[10, 3] == weights[2, 12] == weights.max() > weights[10, 6] > weights[15, 15]


def test_a_wrong_cell_costs_what_it_weighs():
    logits, truth = torch.zeros(2, 4, 4), torch.ones(2, 4, 4)
    weights = torch.ones(2, 4, 4)
    weights[0] = 3
    plain, weighed = (mask_losses(logits, torch.zeros(2), truth, w)["mask"] for w in (None, weights))
    assert weighed.item() == plain.item() * 2
    np.testing.assert_allclose(sum(pass_weights(4)), 1)
    assert pass_weights(1) == [1.0]
