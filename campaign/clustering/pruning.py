"""Tiles of cluster distances that need not be computed, by bounds that hold for complete linkage.

The farthest pair of two clusters is at least as far as the average one, so with centres c, mean scores m and
variances v (mean squared distance from the centre)

    D(A, B) ≥ ‖c_A − c_B‖ + |m_A − m_B|     and     D(A, B) ≥ √(‖c_A − c_B‖² + v_A + v_B).

Both are cheap: one centre stands for all masks of a cluster. In uniform noise all clusters are about equally far
from each other and nothing is skipped; a pass finds that out, and later ones no longer try.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from campaign.clustering import chains, kernels
from campaign.clustering.grouping import groups
from campaign.clustering.points import Points
from campaign.clustering.workers import Workers

PIECE = 256  # neighbouring clusters that share one bound
WORTH = 0.05  # share of the tiles that must be skipped for pruning to go on


@dataclass(frozen=True)
class Centres:
    """Clusters by their centres: points (m,), and the variance (m,) of each cluster's features."""

    points: Points
    variance: np.ndarray

    @classmethod
    def of(cls, points: Points, following: np.ndarray, ids: np.ndarray) -> Centres:
        """The centres of clusters as chains of leaves that start at `ids`."""
        x, mark = np.zeros((len(ids), points.x.shape[1]), np.float32), np.zeros(len(ids), np.float32)
        variance = np.zeros(len(ids), np.float32)
        chains.centres(points.x, points.mark, following, ids, x, mark, variance)
        norm = np.einsum("ij,ij->i", x, x)
        return cls(Points(x, norm, mark, points.feature_scale, points.score_scale), variance)

    def select(self, index: np.ndarray) -> Centres:
        """The centres of an index."""
        return Centres(self.points.select(index), self.variance[index])

    def arranged(self, team: Workers) -> tuple[np.ndarray, np.ndarray]:
        """An order (m,) of the clusters that puts near ones together, and the piece (m,) of each, in that order."""
        parts = groups(self.points, PIECE, team)
        return np.concatenate(parts), np.repeat(np.arange(len(parts)), [len(part) for part in parts])


class Pieces:
    """Bounds of one block of clusters: it falls into pieces, each a ball of centres and a range of scores."""

    def __init__(self, centres: Centres, piece: np.ndarray):
        _, self.piece = np.unique(piece, return_inverse=True)
        self.centres = centres
        x, mark = centres.points.x, centres.points.mark
        count = np.bincount(self.piece)
        self.x = np.zeros((len(count), x.shape[1]), np.float32)
        np.add.at(self.x, self.piece, x)
        self.x /= count[:, None].astype(np.float32)
        self.radius = self._most(np.sqrt(np.einsum("ij,ij->i", x - self.x[self.piece], x - self.x[self.piece])))
        self.high, self.low = self._most(mark), -self._most(-mark)

    def _most(self, values: np.ndarray) -> np.ndarray:
        out = np.full(len(self.x), -np.inf, np.float32)
        np.maximum.at(out, self.piece, values)
        return out

    def may_meet(self, other: Pieces, own_bound: np.ndarray, other_bound: np.ndarray) -> bool:
        """Whether some cluster here may be nearer to one there than its bound, or the other way round."""
        gap = self.x[:, None] - other.x
        least = np.sqrt(np.einsum("ijk,ijk->ij", gap, gap)) - self.radius[:, None] - other.radius
        apart = np.maximum(self.low[:, None] - other.high, other.low - self.high[:, None])
        least = np.maximum(least, 0) + np.maximum(apart, 0)
        wanted = np.maximum(self._most(own_bound)[:, None], other._most(other_bound))
        return bool((least * kernels.TIED < wanted).any())

    def some_near(self, other: Pieces, own_bound: np.ndarray, other_bound: np.ndarray) -> bool:
        """The same for every single pair of clusters, by their centres and variances."""
        here, there = self.centres.points, other.centres.points
        tile = here.x @ there.x.T
        kernels.lengths(tile, here.x, here.norm, there.x, there.norm)
        marks, variances = (here.mark, there.mark), (self.centres.variance, other.centres.variance)
        return bool(chains.any_near(tile, *marks, *variances, own_bound, other_bound))
