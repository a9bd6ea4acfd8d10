"""Cells of a tree: every mask in one, none too large."""

import numpy as np
import pytest

from campaign.clustering import Tree, linkage
from campaign.clustering.cells import cells_of, nearest_cells, standing_for


@pytest.fixture(scope="module")
def tree():
    rng = np.random.default_rng(1)
    return Tree.build(linkage(rng.normal(size=(300, 4)), rng.random(300)), rng.random(300))


@pytest.mark.parametrize("most", [1, 7, 50, 300, 1000])
def test_cells_hold_every_mask_once(tree, most):
    cells = cells_of(tree, most)
    members = np.concatenate([tree.members(int(c)) for c in cells])
    assert sorted(members.tolist()) == list(range(300))
    assert all(tree.size[c] <= most and (tree.parent[c] < 0 or tree.size[tree.parent[c]] > most) for c in cells)


def test_what_stands_for_a_cell_lies_in_it(tree):
    cells = cells_of(tree, 40)
    for cell, leaves in zip(cells, standing_for(tree, cells, 5), strict=True):
        assert set(leaves.tolist()) <= set(tree.members(int(cell)).tolist())
        assert len(set(leaves.tolist())) == min(5, int(tree.size[cell]))


def test_the_nearest_cells_hold_enough():
    centres, size = np.array([[0.0], [5.0], [1.0]]), np.array([10, 10, 10])
    assert nearest_cells(centres, size, np.array([0.2]), 1).tolist() == [0]
    assert nearest_cells(centres, size, np.array([0.2]), 11).tolist() == [0, 2]
    assert nearest_cells(centres, size, np.array([0.2]), 999).tolist() == [0, 2, 1]
