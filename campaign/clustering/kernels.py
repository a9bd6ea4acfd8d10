"""Compiled inner loops that have no vectorised form."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True)
def descend(children: np.ndarray, size: np.ndarray, start: np.ndarray, n: int) -> None:
    """Set every cluster's first position in leaf order, from the root (last) down; in place."""
    for cluster in range(len(start) - 1, n - 1, -1):
        left, right = children[cluster]
        start[left] = start[cluster]
        start[right] = start[cluster] + size[left]
