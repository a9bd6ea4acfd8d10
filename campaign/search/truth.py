"""What is true of clusters where the truth of their masks is known: on held-out images, and in simulations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from campaign.clustering import Tree


def cluster_quality(tree: Tree, correct: np.ndarray) -> np.ndarray:
    """True quality Q of every cluster, (2n−1,) float64, from the correctness of the leaves, (n,) bool."""
    total = np.concatenate([[0], np.cumsum(np.asarray(correct, np.float64)[np.asarray(tree.order)])])
    start, size = np.asarray(tree.start), np.asarray(tree.size)
    return (total[start + size] - total[start]) / size
