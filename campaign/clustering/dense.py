"""Exact complete linkage on a square float32 matrix of distances.

Rounds merge every pair of mutually nearest clusters at once; for complete linkage that makes the same tree as
one merge at a time (Müllner 2011, section 2; Bruynooghe 1978 on reducibility). Three things keep it near the
speed of memory:

- a row learns of merges only when it is next read, by replaying a log of them, so no column is ever written;
- distances only grow, so a cluster's nearest one stays so until it merges itself: few rows are read again;
- rows are closed up in place when three tenths of their columns are dead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import numpy as np

from campaign.clustering import kernels
from campaign.clustering.workers import Workers

SHRINK = 0.7  # rows are closed up when this share of the columns is alive
SHARED = 200_000  # matrix elements below which a step is not worth handing to threads
PATIENCE = 12  # readings per row, on average, after which merging goes one chain at a time

Merges = tuple[np.ndarray, np.ndarray, np.ndarray]  # a leaf of the one side, of the other, height


class Members(Protocol):
    """Clusters that know their masks."""

    def unite(self, kept: np.ndarray, gone: np.ndarray) -> None:
        """Take note of merges."""

    def nearest_of(self, owner: np.ndarray, candidate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each row the row of the candidate that is nearest to its owner, and its distance or -1."""

    def apart(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Distances of pairs of clusters, -1 where not worth it."""


def dense_merges(
    matrix: np.ndarray,
    leaves: np.ndarray,
    team: Workers,
    progress: Callable[[int, int], None] | None = None,
    clusters: Members | None = None,
) -> Merges:
    """All merges of complete linkage on a symmetric (m, m) float32 matrix, which is used up.

    leaves: (m,) the leaf that stands for each row. clusters: decide between clusters that float32 cannot tell
    apart. Returns m-1 merges, every cluster after its parts.
    """
    return joined(HostRows(matrix, leaves, team, clusters).merges(1, progress))


def joined(merges: Iterable[Merges]) -> Merges:
    """Several lots of merges as one."""
    nothing = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    left, right, height = (np.concatenate(part) for part in zip(nothing, *merges, strict=True))
    return left, right, height.astype(np.float64)


class Rows:
    """Which rows are merged when; how is a matter of where the matrix is.

    A cluster's number is its column, which changes when rows are closed up.
    """

    eager = 1.0  # share of the rows with an unknown nearest cluster that a round reads, least lower bound first
    leaf: np.ndarray  # that stands for each cluster
    nearest: np.ndarray
    least: np.ndarray  # distance to the nearest, or a lower bound of it where that is not known
    known: np.ndarray
    rivals: np.ndarray  # number of clusters as near as the nearest, as far as float32 can tell
    exact: np.ndarray  # `least` in double precision where that was needed, otherwise -1
    stale: np.ndarray  # clusters whose nearest is not known

    def __init__(self, leaves: np.ndarray, clusters: Members | None):
        self.clusters, self.left = clusters, len(leaves)
        self.leaf, self.stale = np.asarray(leaves), np.arange(self.left)
        self.nearest, self.least = np.zeros(self.left, np.int64), np.zeros(self.left, np.float32)
        self.known, self.rivals = np.zeros(self.left, bool), np.ones(self.left, np.int64)
        self.exact = np.full(self.left, -1.0)
        self.first, self.second = np.arange(self.left), np.arange(self.left)
        self.readings, self.patience = 0, PATIENCE * self.left
        self._restart(self.left)

    def merges(self, until: int, progress: Callable[[int, int], None] | None) -> Iterator[Merges]:
        """Merge until so many clusters are left."""
        total = self.left
        while self.left > until:
            self._read()
            yield from self._merge()
            if progress:
                progress(total - self.left, total - 1)

    def look(self, rows: np.ndarray) -> None:
        """Set `nearest`, `least` and `rivals` of some rows."""
        raise NotImplementedError

    def contest(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Owner, rival for its nearest and their distance, for the rows that have several rivals."""
        raise NotImplementedError

    def unite(self, a: np.ndarray, b: np.ndarray) -> None:
        """Make rows and columns `a` the larger of `a` and `b` (complete linkage), and drop `b`."""
        raise NotImplementedError

    def close_up(self, keep: np.ndarray) -> None:
        """Drop all rows and columns but these."""
        raise NotImplementedError

    def _restart(self, width: int) -> None:
        self.width, self.alive, self.merged = width, np.ones(width, bool), np.zeros(width, bool)

    def _read(self) -> None:
        rows = self.stale
        if self.readings > self.patience:  # a chain of nearest clusters reads no row more than three times
            rows = np.array([kernels.tip(self.nearest, self.known, self.alive)])
        elif self.eager < 1 and (part := int(len(rows) * self.eager)) > 64:
            rows = rows[np.argpartition(self.least[rows], part)[:part]]
        self.look(rows)
        self.known[rows], self.exact[rows] = True, -1
        self.readings += len(rows)
        if self.clusters is not None and (self.rivals[rows] > 1).any():
            owner, rival, distance = self.contest(rows)
            best, self.exact[owner] = self.clusters.nearest_of(self.leaf[owner], self.leaf[rival])
            self.nearest[owner], self.least[owner] = rival[best], distance[best]

    def _merge(self) -> Iterator[Merges]:
        lines = self.nearest, self.least, self.known, self.alive
        self._deny_ties()
        pairs = kernels.pair_up(self.width, *lines, self.exact, self.first, self.second)
        if not pairs and self.known[: self.width][self.alive].all():
            # a ring of near ties: the nearest pair of all is right in any case
            pairs, i = 1, int(np.where(self.alive, self.least[: self.width], np.inf).argmin())
            j = self.nearest[i]
            self.first[0], self.second[0] = i, j
            self.known[i] = self.known[j] = self.alive[j] = False
        a, b = self.first[:pairs].copy(), self.second[:pairs].copy()
        if pairs:
            self.unite(a, b)
            if self.clusters is not None:
                self.clusters.unite(self.leaf[a], self.leaf[b])
            yield self.leaf[a], self.leaf[b], self.least[a]
            self.left -= pairs
            self.merged[a] = self.merged[b] = True
        self.stale = np.empty(self.left, np.int64)
        count = kernels.forget(self.width, self.nearest, self.known, self.alive, self.merged, self.stale)
        self.stale = self.stale[:count]
        self.merged[a] = self.merged[b] = False
        if self.left < SHRINK * self.width and self.width > 256:
            self.shrink()

    def _deny_ties(self) -> None:
        """Tell apart clusters that are farther from their nearest one than it is from its own.

        Float32 calls both distances the same, and would merge the wrong two.
        """
        if self.clusters is None or not (self.exact[: self.width] >= 0).any():
            return
        near = self.nearest[: self.width]
        tied = self.alive & self.known[: self.width] & self.known[near] & (self.least[: self.width] == self.least[near])
        tied &= (near[near] != np.arange(self.width)) & (self.exact[near] >= 0)
        rows = np.flatnonzero(tied & (self.exact[: self.width] < 0))
        if len(rows):
            self.exact[rows] = self.clusters.apart(self.leaf[rows], self.leaf[near[rows]])

    def shrink(self) -> None:
        """Close up the rows and columns of the clusters that are left."""
        keep = np.flatnonzero(self.alive)
        self.close_up(keep)
        place = np.cumsum(self.alive) - 1
        self.nearest, self.stale = place[self.nearest[keep]], place[self.stale]
        self.leaf, self.least = self.leaf[keep], self.least[keep]
        self.known, self.rivals, self.exact = self.known[keep], self.rivals[keep], self.exact[keep]
        self._restart(len(keep))


class HostRows(Rows):
    """Rows in memory, which learn of merges when they are next read."""

    eager = 0.5
    slot: np.ndarray  # where in the matrix each cluster's row is

    def __init__(self, matrix: np.ndarray, leaves: np.ndarray, team: Workers, clusters: Members | None):
        np.fill_diagonal(matrix, np.inf)
        self.matrix, self.team, self.slot = matrix, team, np.arange(len(matrix))
        self.kept, self.gone = np.empty(len(matrix), np.int64), np.empty(len(matrix), np.int64)
        super().__init__(leaves, clusters)

    def _restart(self, width: int) -> None:
        super()._restart(width)
        self.now, self.stamp = 0, np.zeros(width, np.int64)

    def look(self, rows: np.ndarray) -> None:
        """Set `nearest`, `least` and `rivals` of some rows."""
        self._share(len(rows), kernels.scan, rows, self.nearest, self.least, self.rivals)

    def contest(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Owner, rival for its nearest and their distance, for the rows that have several rivals."""
        total = int(self.rivals[rows].sum())
        owner, rival = np.empty(total, np.int64), np.empty(total, np.int64)
        lines = self.matrix, self.slot, rows, self.width, self.least, self.rivals
        count = kernels.contest(*lines, owner, rival)
        return owner[:count], rival[:count], self.matrix[self.slot[owner[:count]], rival[:count]]

    def unite(self, a: np.ndarray, b: np.ndarray) -> None:
        """Merge rows; the others find the merge in the log."""
        self._share(len(a), kernels.merge, a, b)
        self.kept[self.now : self.now + len(a)], self.gone[self.now : self.now + len(a)] = a, b
        self.now += len(a)

    def close_up(self, keep: np.ndarray) -> None:
        """Drop all rows and columns but these."""
        self._share(len(keep), kernels.compact, keep)
        self.slot = self.slot[keep]

    def _share(self, count: int, kernel: Callable[..., None], *arguments: Any) -> None:
        """Run a kernel over `count` items, on all threads where that pays."""

        def work(low: int, high: int) -> None:
            log = self.stamp, self.kept, self.gone, self.now
            kernel(self.matrix, self.slot, low, high, self.width, *log, *arguments)

        self.team.ranges(work, count, count * self.width > SHARED)
