"""Exact complete linkage without a distance matrix, for as long as it takes to make one fit.

A pass computes the distances of all clusters in tiles, keeps for each cluster a short list of its nearest ones,
and forgets the rest. The lists then prove merge after merge: a cluster's nearest one is certain while its
distance is within the list's reach, because whatever is not listed is at least as far, and complete linkage
only moves clusters apart. When the lists have run out, another pass is made over the clusters that are left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from campaign.clustering import chains, kernels
from campaign.clustering.dense import Merges, dense_merges
from campaign.clustering.points import BLOCK, Points, tiles
from campaign.clustering.pruning import WORTH, Centres, Pieces
from campaign.clustering.workers import Workers

LIST = 32  # clusters in a list
LAYERED = 3  # pairs of masks per pair of clusters from which the bound by centres is tried first


@dataclass(frozen=True)
class _Block:
    """Some clusters, largest first, and their masks in layers: the k-th masks of all that have so many."""

    clusters: np.ndarray
    origin: np.ndarray  # where they were in the list of clusters that was cut into blocks
    x: np.ndarray
    norm: np.ndarray
    mark: np.ndarray
    place: np.ndarray  # of each mask's cluster in the block
    starts: np.ndarray  # of the layers, and where the last one ends


class Clusters:
    """The clusters of a set of points while they merge; a cluster's id is one of its leaves.

    pieces: (n,) for each leaf the id of the cluster it starts in; by default every leaf is one.
    """

    def __init__(self, points: Points, team: Workers, pieces: np.ndarray | None = None):
        n = len(points)
        self.points, self.team, self.n = points, team, n
        self.alive = np.ones(n, bool)
        self.size: np.ndarray = np.ones(n, np.int32)
        self.parent: np.ndarray = np.arange(n, dtype=np.int32)
        self.following = np.full(n, -1, np.int32)
        self.last: np.ndarray = np.arange(n, dtype=np.int32)
        self.version = np.zeros(n, np.int32)
        self.near = np.full((n, LIST), -1, np.int32)
        self.far = np.full((n, LIST), np.inf, np.float32)
        self.part = np.ones((n, LIST), np.int32)
        self.bound = np.full(n, -1, np.float32)  # negative: the list has run out
        self.first, self.second = np.empty(n, np.int64), np.empty(n, np.int64)
        self.height, self.merged = np.empty(n, np.float32), 0
        self.started = n
        self.prunes = True
        if pieces is not None:
            self.parent = pieces.astype(np.int32)
            self.alive = self.parent == np.arange(n)
            self.started = int(self.alive.sum())
            self.size = np.bincount(self.parent, minlength=n).astype(np.int32)
            for leaf in np.flatnonzero(~self.alive):
                home = self.parent[leaf]
                self.following[self.last[home]] = leaf
                self.last[home] = leaf

    def __len__(self) -> int:
        return self.started - self.merged

    @property
    def merges(self) -> Merges:
        """The merges so far: a leaf of either side and the height."""
        done = slice(self.merged)
        return self.first[done], self.second[done], self.height[done].astype(np.float64)

    def settle(self) -> int:
        """Make every merge that the lists prove; returns how many."""
        before = self.merged
        self.merged = chains.settle(
            self.points.x,
            self.points.mark,
            self.alive,
            self.near,
            self.far,
            self.part,
            self.bound,
            self.parent,
            self.size,
            self.following,
            self.last,
            self.version,
            self.first,
            self.second,
            self.height,
            self.merged,
        )
        return self.merged - before

    def look(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Fill the lists that have run out, by a pass over all pairs with such a cluster in them.

        The first pass goes through all pairs of masks, so it measures σ_f where that is still to be done.
        """
        measuring = not self.points.measured
        ids = np.flatnonzero(self.alive)
        needy = self.bound[ids] < 0
        ids = np.concatenate([ids[needy], ids[~needy]])
        wanted = int(needy.sum())
        lost = ids[:wanted]
        self.near[lost], self.far[lost], self.bound[lost] = -1, np.inf, np.inf
        # lists that are still good must not change: nothing is below their guard
        guard = np.full(self.n, -1, np.float32)
        guard[lost] = np.inf
        prune = self.prunes and not measuring and len(ids) > 2 * BLOCK
        blocks, pieces = self._pruned(ids, wanted) if prune else (self._blocks(ids), [])
        jobs = [(i, j) for i in range(-(-wanted // BLOCK)) for j in range(i, len(blocks))]
        if pieces:
            jobs.sort(key=lambda job: job[1] - job[0])  # near ones first: they lower the bounds
        centre = self.points.centre() if measuring else None
        first = second = 0.0
        skipped = 0

        def work(job: tuple[int, int]) -> tuple[np.ndarray, tuple[float, float]] | None:
            i, j = job
            rows, columns = blocks[i], blocks[j]
            if pieces and i != j:
                limits = guard[rows.clusters], guard[columns.clusters]
                if not pieces[i].may_meet(pieces[j], *limits):
                    return None
                masks, pairs = len(rows.x) * len(columns.x), len(rows.clusters) * len(columns.clusters)
                if masks > LAYERED * pairs and not pieces[i].some_near(pieces[j], *limits):
                    return None
            return _distances(rows, columns, centre, i == j)

        # entered here, in the order of the jobs, so that ties fall the same way whatever the threads do
        for done, (job, tile) in enumerate(zip(jobs, self.team.each(work, jobs), strict=True), 1):
            if tile is None:
                skipped += 1
            else:
                self._enter(blocks[job[0]], blocks[job[1]], tile[0], guard, job[1] * BLOCK < wanted)
                first, second = first + tile[1][0], second + tile[1][1]
            if progress:
                progress(done, len(jobs))
        self.bound[lost] = guard[lost]
        if measuring:
            self._rescale(first, second)
        self.part[lost] = np.where(self.near[lost] >= 0, self.size[self.near[lost]], 1)
        self.prunes = self.prunes and (measuring or skipped >= WORTH * len(jobs))

    def _enter(self, rows: _Block, columns: _Block, tile: np.ndarray, guard: np.ndarray, both: bool) -> None:
        if rows is columns:
            np.fill_diagonal(tile, np.inf)
        chains.list_rows(tile, rows.clusters, columns.clusters, self.near, self.far, guard)
        if rows is not columns and both:
            limits = np.empty(len(columns.clusters), np.float32)
            chains.list_columns(tile, rows.clusters, columns.clusters, limits, self.near, self.far, guard)

    def measure(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Measure σ_f over all pairs of masks, where that is still to be done."""
        if self.points.measured:
            return
        x, norm, centre = self.points.x, self.points.norm, self.points.centre()
        first = second = 0.0

        def sums(tile: tuple[slice, slice]) -> tuple[float, float]:
            rows, columns = tile
            dots = x[rows] @ x[columns].T
            kernels.lengths(dots, x[rows], norm[rows], x[columns], norm[columns])
            return kernels.spread(dots, centre, rows == columns)

        jobs = tiles(self.n)
        for done, part in enumerate(self.team.each(sums, jobs), 1):
            first, second = first + part[0], second + part[1]
            if progress:
                progress(done, len(jobs))
        self.points.rescale(first, second)

    def _rescale(self, first: float, second: float) -> None:
        """Bring lists of single masks over to the measured σ_f."""
        factor = np.float32(self.points.rescale(first, second))
        mark = self.points.mark
        apart = np.abs(mark[:, None] - mark[np.maximum(self.near, 0)])
        listed = self.near >= 0
        self.far[listed] = ((self.far - apart) * factor + apart)[listed]
        self.bound *= min(factor, np.float32(1))  # whatever is not listed is at least so far

    def matrix(self, progress: Callable[[int, int], None] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Complete-linkage distances of all clusters, float32 (m, m), and the ids (m,) of its rows."""
        ids = np.flatnonzero(self.alive)
        ids = ids[np.argsort(-self.size[ids], kind="stable")]
        blocks = self._blocks(ids)
        out = np.empty((len(ids), len(ids)), np.float32)

        def work(tile: tuple[slice, slice]) -> None:
            rows, columns = tile
            out[rows, columns] = _distances(blocks[rows.start // BLOCK], blocks[columns.start // BLOCK])[0]
            if rows == columns:
                square = out[rows, columns]
                np.maximum(square, square.T.copy(), out=square)
            else:
                kernels.mirror(out[columns, rows], out[rows, columns])

        jobs = tiles(len(ids))
        for done, _ in enumerate(self.team.each(work, jobs), 1):
            if progress:
                progress(done, len(jobs))
        return out, ids

    def finish(
        self,
        computing: Callable[[int, int], None] | None = None,
        merging: Callable[[int, int], None] | None = None,
    ) -> Merges:
        """The merges still to be made, on a matrix of all distances between the clusters."""
        matrix, leaves = self.matrix(computing)
        return dense_merges(matrix, leaves, self.team, merging, self)

    def unite(self, kept: np.ndarray, gone: np.ndarray) -> None:
        """Take note of merges made elsewhere."""
        chains.append(self.following, self.last, self.size, kept, gone)

    def nearest_of(self, owner: np.ndarray, candidate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each row the row of the candidate that is nearest to its owner, and its distance, in double precision.

        owner, candidate: (k,) clusters; rows of one owner stand together. A distance that costs too much is -1.
        """
        best, exact = np.empty(len(owner), np.int64), np.empty(len(owner))
        points = self.points
        chains.decide(points.x, points.mark, self.following, self.size, owner, candidate, best, exact)
        return best, exact

    def apart(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Distances of pairs of clusters in double precision, -1 where that costs too much."""
        out = np.empty(len(first))
        chains.apart(self.points.x, self.points.mark, self.following, self.size, first, second, out)
        return out

    def _pruned(self, ids: np.ndarray, wanted: int) -> tuple[list[_Block], list[Pieces]]:
        """Blocks of near clusters, and what says of two blocks that none of their clusters can be near."""
        ids, centres, piece = self._arranged(ids, wanted)
        blocks = self._blocks(ids)
        return blocks, [Pieces(centres.select(block.origin), piece[block.origin]) for block in blocks]

    def _arranged(self, ids: np.ndarray, wanted: int) -> tuple[np.ndarray, Centres, np.ndarray]:
        """The ids with near clusters together (the first `wanted` still first), their centres and pieces."""
        centres = Centres.of(self.points, self.following, ids)
        order, piece = centres.select(np.arange(wanted)).arranged(self.team)
        if wanted < len(ids):
            rest, others = centres.select(np.arange(wanted, len(ids))).arranged(self.team)
            order, piece = np.append(order, wanted + rest), np.append(piece, piece[-1] + 1 + others)
        return ids[order], centres.select(order), piece

    def _blocks(self, ids: np.ndarray) -> list[_Block]:
        blocks = []
        for low in range(0, len(ids), BLOCK):
            origin = low + np.argsort(-self.size[ids[low : low + BLOCK]], kind="stable")
            chosen = ids[origin]
            layers, leaves = [], chosen
            while len(leaves):
                layers.append(leaves)
                leaves = self.following[leaves]
                leaves = leaves[leaves >= 0]
            lengths = [len(layer) for layer in layers]
            part = self.points.select(np.concatenate(layers))
            place = np.concatenate([np.arange(length) for length in lengths])
            starts = np.concatenate([[0], np.cumsum(lengths)])
            blocks.append(_Block(chosen, origin, part.x, part.norm, part.mark, place, starts))
        return blocks


def _distances(
    rows: _Block, columns: _Block, centre: np.float32 | None = None, diagonal: bool = False
) -> tuple[np.ndarray, tuple[float, float]]:
    """Distances of two blocks' clusters; with a centre, also the sums of `kernels.spread` (single masks only)."""
    plain, sums = len(rows.starts) == len(columns.starts) == 2, (0.0, 0.0)
    out = np.empty((0, 0), np.float32) if plain else np.zeros((len(rows.clusters), len(columns.clusters)), np.float32)
    for top in range(0, len(rows.x), BLOCK):
        row = slice(top, top + BLOCK)
        for low in range(0, len(columns.x), BLOCK):
            column = slice(low, low + BLOCK)
            tile = rows.x[row] @ columns.x[column].T
            kernels.lengths(tile, rows.x[row], rows.norm[row], columns.x[column], columns.norm[column])
            if centre is not None:
                sums = kernels.spread(tile, centre, diagonal)
            kernels.add_marks(tile, rows.mark[row], columns.mark[column])
            if plain:
                return tile, sums
            kernels.raise_to(out, tile, rows.place[row], columns.starts, low)
    return out, sums
