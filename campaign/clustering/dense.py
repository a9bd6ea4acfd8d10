"""Exact complete linkage on a square float32 matrix of distances.

Rounds merge every pair of mutually nearest clusters at once; for complete linkage that gives the same tree as
one merge at a time (Müllner 2011, section 2; Bruynooghe 1978 on reducibility). Three things keep it near the
speed of memory:

- a row learns of merges only when it is next read, by replaying a log of them, so no column is ever written;
- distances only grow, so a cluster's nearest one stays so until it merges itself: few rows are read again;
- rows are closed up in place when three tenths of their columns are dead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from campaign.clustering import kernels
from campaign.clustering.workers import Workers

SHRINK = 0.7  # rows are closed up when this share of the columns is alive
EAGER = 0.5  # share of the rows with an unknown nearest cluster that a round reads, least lower bound first
SHARED = 200_000  # matrix elements below which a step is not worth handing to threads
PATIENCE = 12  # readings per row, on average, after which merging goes one chain at a time

Merges = tuple[np.ndarray, np.ndarray, np.ndarray]  # a leaf of the one side, of the other, height


def dense_merges(
    matrix: np.ndarray, leaves: np.ndarray, team: Workers, progress: Callable[[int, int], None] | None = None
) -> Merges:
    """All merges of complete linkage on a symmetric (m, m) float32 matrix, which is used up.

    leaves: (m,) the leaf that stands for each row. Returns m-1 merges, every cluster after its parts.
    """
    total = len(matrix)
    rows = _Rows(matrix, leaves, team)
    merges: list[Merges] = []
    while rows.left > 1:
        rows.read()
        merges += rows.merge()
        if progress:
            progress(total - rows.left, total - 1)
    if not merges:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    left, right, heights = (np.concatenate(part) for part in zip(*merges, strict=True))
    return left, right, heights.astype(np.float64)


class _Rows:
    """The rows of the matrix; a cluster's number is its column, which changes when rows are closed up."""

    slot: np.ndarray  # of each cluster's row in the matrix
    leaf: np.ndarray  # that stands for it
    nearest: np.ndarray
    least: np.ndarray  # distance to the nearest, or a lower bound of it where that is not known
    known: np.ndarray
    stale: np.ndarray  # clusters whose nearest is not known

    def __init__(self, matrix: np.ndarray, leaves: np.ndarray, team: Workers):
        np.fill_diagonal(matrix, np.inf)
        self.matrix, self.team, self.left = matrix, team, len(matrix)
        self.leaf, self.slot = np.asarray(leaves), np.arange(len(matrix))
        self.nearest, self.least = np.zeros(self.left, np.int64), np.zeros(self.left, np.float32)
        self.known = np.zeros(self.left, bool)
        self.first, self.second, self.stale = (np.arange(self.left) for _ in range(3))
        self.kept, self.gone = np.empty(self.left, np.int64), np.empty(self.left, np.int64)
        self.readings, self.patience = 0, PATIENCE * self.left
        self._restart(self.left)

    def _restart(self, width: int) -> None:
        self.width, self.now = width, 0
        self.alive, self.merged = np.ones(width, bool), np.zeros(width, bool)
        self.stamp = np.zeros(width, np.int64)

    def read(self) -> None:
        """Find the nearest cluster of some for which it is not known."""
        rows = self.stale
        if self.readings > self.patience:  # a chain of nearest clusters reads no row more than three times
            rows = np.array([kernels.tip(self.nearest, self.known, self.alive)])
        elif (part := int(len(rows) * EAGER)) > 64:
            rows = rows[np.argpartition(self.least[rows], part)[:part]]
        self._share(len(rows), kernels.scan, rows, self.nearest, self.least)
        self.known[rows] = True
        self.readings += len(rows)

    def merge(self) -> list[Merges]:
        """Merge all pairs known to be mutually nearest."""
        pairs = kernels.pair_up(self.width, self.nearest, self.least, self.known, self.alive, self.first, self.second)
        a, b = self.first[:pairs].copy(), self.second[:pairs].copy()
        done = []
        if pairs:
            self._share(pairs, kernels.merge, a, b)
            done.append((self.leaf[a], self.leaf[b], self.least[a]))
            self.kept[self.now : self.now + pairs], self.gone[self.now : self.now + pairs] = a, b
            self.now += pairs
            self.left -= pairs
            self.merged[a] = self.merged[b] = True
        self.stale = np.empty(self.left, np.int64)
        count = kernels.forget(self.width, self.nearest, self.known, self.alive, self.merged, self.stale)
        self.stale = self.stale[:count]
        self.merged[a] = self.merged[b] = False
        if self.left < SHRINK * self.width and self.width > 256:
            self._close_up()
        return done

    def _close_up(self) -> None:
        keep = np.flatnonzero(self.alive)
        self._share(len(keep), kernels.compact, keep)
        place = np.cumsum(self.alive) - 1
        self.nearest, self.stale = place[self.nearest[keep]], place[self.stale]
        self.slot, self.leaf = self.slot[keep], self.leaf[keep]
        self.least, self.known = self.least[keep], self.known[keep]
        self._restart(len(keep))

    def _share(self, count: int, kernel: Callable[..., None], *arguments: Any) -> None:
        """Run a kernel over `count` items, on all threads where that pays."""

        def work(low: int, high: int) -> None:
            log = self.stamp, self.kept, self.gone, self.now
            kernel(self.matrix, self.slot, low, high, self.width, *log, *arguments)

        self.team.ranges(work, count, count * self.width > SHARED)
