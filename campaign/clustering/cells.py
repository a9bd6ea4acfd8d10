"""A tree cut into cells of look-alike masks, by which the neighbours of a mask are sought without looking at all."""

from __future__ import annotations

import numpy as np

from campaign.clustering.tree import Tree

CELL = 2000  # masks of a cell at most
EACH = 16  # of them stand for a cell


def cells_of(tree: Tree, most: int = CELL) -> np.ndarray:
    """The largest clusters of at most `most` masks, (k,): every mask is in exactly one of them."""
    size, parent = np.asarray(tree.size), np.asarray(tree.parent)
    small = size <= most
    above = np.where(parent >= 0, parent, 0)
    return np.flatnonzero(small & ((parent < 0) | ~small[above]))


def standing_for(tree: Tree, cells: np.ndarray, each: int = EACH) -> np.ndarray:
    """So many leaves of each of k cells, evenly from its first to its last, (k, each); of small cells some twice."""
    start, size = (np.asarray(column[cells], np.int64) for column in (tree.start, tree.size))
    place = start[:, None] + np.linspace(0, 1, each) * (size - 1)[:, None]
    return np.asarray(tree.order)[place.round().astype(np.int64)]


def nearest_cells(centres: np.ndarray, size: np.ndarray, feature: np.ndarray, masks: int) -> np.ndarray:
    """The cells nearest to a feature (d,) by their `centres` (k, d), nearest first, as many as hold so many masks."""
    distance = ((np.asarray(centres, np.float32) - np.asarray(feature, np.float32)) ** 2).sum(1)
    order = np.argsort(distance, kind="stable")
    return order[: int(np.searchsorted(np.cumsum(size[order]), masks)) + 1]
