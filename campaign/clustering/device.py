"""The exact engine on a GPU, by PyTorch. The host keeps lists and merges; the device computes and holds distances.

Runs on any PyTorch device, its CPU included, with the same results up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch

from campaign.clustering import kernels, neighbours
from campaign.clustering.dense import PATIENCE, SHRINK, Merges, dense_merges
from campaign.clustering.neighbours import Clusters
from campaign.clustering.points import Points
from campaign.clustering.workers import Workers

ROWS, COLUMNS = 4096, 16384  # clusters in a tile
MASKS = 16384  # masks on a side of what is computed at once
HANDOVER = 2048  # the last clusters merge faster on the host
SLAB = 1 << 26  # matrix elements moved at once
SPARE = 4 << 30  # bytes of device memory left to tiles and PyTorch


class DeviceClusters(Clusters):
    """Clusters whose distances are computed on a device."""

    def __init__(self, points: Points, team: Workers, pieces: np.ndarray | None = None, device: str = "cuda"):
        super().__init__(points, team, pieces)
        self.device = torch.device(device)
        self.x, self.norm, self.mark = (
            torch.from_numpy(np.ascontiguousarray(part)).to(self.device)
            for part in (points.x, points.norm, points.mark)
        )

    def room(self) -> int:
        """Bytes of the device that a matrix may take."""
        if self.device.type != "cuda":
            return 1 << 62
        return max(0, torch.cuda.mem_get_info(self.device)[0] - SPARE)

    def measure(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Measure σ_f over all pairs of masks, where that is still to be done."""
        if self.points.measured:
            return
        centre, first, second = float(self.points.centre()), 0.0, 0.0
        nothing = torch.zeros_like(self.mark)
        singles = [_Layers(self, np.arange(low, min(low + ROWS, self.n))) for low in range(0, self.n, ROWS)]
        self.mark, kept = nothing, self.mark
        for i, rows in enumerate(singles):
            for columns in singles[i:]:
                gap = self._distances(rows, columns).sub_(centre)
                if columns is rows:
                    gap = gap.triu_(1)
                first += float(gap.sum(dtype=torch.float64))
                second += float(gap.square_().sum(dtype=torch.float64))
            if progress:
                progress(i + 1, len(singles))
        self.mark = kept
        self.points.rescale(first, second)
        self.x = torch.from_numpy(self.points.x).to(self.device)
        self.norm = torch.from_numpy(self.points.norm).to(self.device)

    def look(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Fill the lists that have run out."""
        ids = np.flatnonzero(self.alive)
        needy = self.bound[ids] < 0
        ids = np.concatenate([ids[needy], ids[~needy]])
        wanted, length = int(needy.sum()), min(neighbours.LIST, len(ids) - 1)
        columns = [_Layers(self, ids[low : low + COLUMNS]) for low in range(0, len(ids), COLUMNS)]
        for low in range(0, wanted, ROWS):
            rows = _Layers(self, ids[low : min(low + ROWS, wanted)])
            best = torch.full((len(rows.clusters), 0), 0.0, device=self.device)
            near = torch.zeros((len(rows.clusters), 0), dtype=torch.int64, device=self.device)
            own = torch.from_numpy(rows.clusters).to(self.device)
            for shared, column in zip(range(0, len(ids), COLUMNS), columns, strict=True):
                tile = self._distances(rows, column)
                names = torch.from_numpy(column.clusters).to(self.device)
                if shared <= low < shared + COLUMNS:
                    tile.masked_fill_(own[:, None] == names, torch.inf)
                value, place = tile.topk(min(length, tile.shape[1]), 1, largest=False)
                best, near = torch.cat([best, value], 1), torch.cat([near, names[place]], 1)
                best, place = best.topk(min(length, best.shape[1]), 1, largest=False)
                near = near.gather(1, place)
            self._enter(rows.clusters, near.cpu().numpy(), best.cpu().numpy(), complete=length == len(ids) - 1)
            if progress:
                progress(min(low + ROWS, wanted), wanted)

    def _enter(self, rows: np.ndarray, near: np.ndarray, far: np.ndarray, complete: bool) -> None:
        length = near.shape[1]
        self.near[rows], self.far[rows] = -1, np.inf
        self.near[rows, :length], self.far[rows, :length] = near, far
        self.part[rows] = np.where(self.near[rows] >= 0, self.size[self.near[rows]], 1)
        self.bound[rows] = np.inf if complete else far.max(1)

    def device_matrix(self, progress: Callable[[int, int], None] | None = None) -> tuple[torch.Tensor, np.ndarray]:
        """Like `matrix`, left on the device."""
        ids = np.flatnonzero(self.alive)
        ids = ids[np.argsort(-self.size[ids], kind="stable")]
        out = torch.empty((len(ids), len(ids)), device=self.device)
        cuts = range(0, len(ids), ROWS)
        blocks = [_Layers(self, ids[low : low + ROWS]) for low in cuts]
        for i, low in enumerate(cuts):
            for block, left in zip(blocks[i:], cuts[i:], strict=True):
                tile = self._distances(blocks[i], block)
                if low == left:
                    tile = torch.maximum(tile, tile.T)
                out[low : low + ROWS, left : left + ROWS] = tile
                out[left : left + ROWS, low : low + ROWS] = tile.T
            if progress:
                progress(i + 1, len(blocks))
        return out, ids

    def finish(
        self,
        computing: Callable[[int, int], None] | None = None,
        merging: Callable[[int, int], None] | None = None,
    ) -> Merges:
        """The merges still to be made, on a matrix that stays on the device."""
        matrix, leaves = self.device_matrix(computing)
        return device_merges(matrix, leaves, self.team, merging)

    def _distances(self, rows: _Layers, columns: _Layers) -> torch.Tensor:
        plain = len(rows.starts) == len(columns.starts) == 2 and len(rows.leaves) <= MASKS >= len(columns.leaves)
        if plain:
            return self._tile(rows.leaves, columns.leaves)
        out = torch.zeros((len(rows.clusters), len(columns.clusters)), device=self.device)
        for top in range(0, len(rows.leaves), MASKS):
            height = min(MASKS, len(rows.leaves) - top)
            for low in range(0, len(columns.leaves), MASKS):
                width = min(MASKS, len(columns.leaves) - low)
                tile = self._tile(rows.leaves[top : top + height], columns.leaves[low : low + width])
                lines = torch.zeros((len(rows.clusters), width), device=self.device)
                _raise(lines, tile, rows.starts, top)
                _raise(out.T, lines.T, columns.starts, low)
        return out

    def _tile(self, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        total = self.norm[rows][:, None] + self.norm[columns]
        x, y = self.x[rows], self.x[columns]
        tile = torch.addmm(total, x, y.T, alpha=-2)
        lost = tile < float(kernels.CANCELLED) * total
        tile = tile.clamp_(min=0).sqrt_()
        if lost.any():
            for part in lost.nonzero().split(max(1, SLAB // max(1, x.shape[1]))):
                i, j = part.unbind(1)
                tile[i, j] = (x[i] - y[j]).square_().sum(1).sqrt_()
        return tile.add_((self.mark[rows][:, None] - self.mark[columns]).abs_())


class _Layers:
    """Some clusters, largest first, and their masks in layers: the k-th masks of all that have so many."""

    def __init__(self, owner: DeviceClusters, ids: np.ndarray):
        self.clusters = ids[np.argsort(-owner.size[ids], kind="stable")].astype(np.int64)
        layers: list[np.ndarray] = []
        leaves: np.ndarray = self.clusters
        while len(leaves):
            layers.append(leaves)
            leaves = owner.following[leaves]
            leaves = leaves[leaves >= 0]
        self.starts = np.cumsum([0] + [len(layer) for layer in layers]).tolist()
        self.leaves = torch.from_numpy(np.concatenate(layers).astype(np.int64)).to(owner.device)


def _raise(out: torch.Tensor, tile: torch.Tensor, starts: list[int], first: int) -> None:
    """Raise clusters' rows to those of their masks; the tile's rows are the masks from `first` on, in layers."""
    for begin, end in pairwise(starts):
        top, bottom = max(begin, first), min(end, first + len(tile))
        if top < bottom:
            goal = out[top - begin : bottom - begin]
            torch.maximum(goal, tile[top - first : bottom - first], out=goal)


def device_merges(
    matrix: torch.Tensor,
    leaves: np.ndarray,
    team: Workers,
    progress: Callable[[int, int], None] | None = None,
) -> Merges:
    """All merges of complete linkage on a symmetric (m, m) float32 matrix on a device, which is used up."""
    total = width = left = len(matrix)
    matrix.fill_diagonal_(torch.inf)
    leaf: np.ndarray = np.asarray(leaves)
    nearest: np.ndarray = np.zeros(total, np.int64)
    least: np.ndarray = np.zeros(total, np.float32)
    known: np.ndarray = np.zeros(total, bool)
    alive, merged = np.ones(total, bool), np.zeros(total, bool)
    first, second = np.arange(total), np.arange(total)
    stale: np.ndarray = np.arange(total)
    merges: list[Merges] = []
    readings = 0
    while left > HANDOVER:
        if readings > PATIENCE * total:
            stale = np.array([kernels.tip(nearest, known, alive)])
        nearest[stale], least[stale] = _nearest(matrix, stale, width)
        known[stale] = True
        readings += len(stale)
        pairs = kernels.pair_up(width, nearest, least, known, alive, first, second)
        a, b = first[:pairs].copy(), second[:pairs].copy()
        if pairs:
            _merge(matrix, a, b, width)
            merges.append((leaf[a], leaf[b], least[a]))
            left -= pairs
            merged[a] = merged[b] = True
            if progress:
                progress(total - left, total - 1)
        stale = np.empty(left, np.int64)
        stale = stale[: kernels.forget(width, nearest, known, alive, merged, stale)]
        merged[a] = merged[b] = False
        if left < SHRINK * width:
            keep = np.flatnonzero(alive[:width])
            _close_up(matrix, keep)
            place = np.cumsum(alive[:width]) - 1
            stale, width = place[stale], len(keep)
            leaf, least, known = leaf[keep], least[keep], known[keep]
            nearest = place[nearest[keep]]
            alive, merged = np.ones(width, bool), np.zeros(width, bool)
    keep = np.flatnonzero(alive[:width])
    _close_up(matrix, keep)
    rest = np.ascontiguousarray(matrix[: len(keep), : len(keep)].cpu().numpy())
    merges.append(
        dense_merges(rest, leaf[keep], team, progress and (lambda done, _: progress(total - left + done, total - 1)))
    )
    joined = [np.concatenate(part) for part in zip(*merges, strict=True)]
    return joined[0], joined[1], joined[2].astype(np.float64)


def _nearest(matrix: torch.Tensor, rows: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    places, values = [], []
    for part in torch.from_numpy(rows).to(matrix.device).split(max(1, SLAB // width)):
        lines = matrix[part, :width]
        value, place = lines.min(1)
        tied = ((lines == value[:, None]).sum(1) > 1).nonzero()[:, 0]
        for some in tied.split(max(1, SLAB // (4 * width))):
            # the next one after the row's own place, so that ties pair off along a line
            steps = (torch.arange(width, device=matrix.device) - part[some, None]) % width
            place[some] = torch.where(lines[some] == value[some, None], steps, width).argmin(1)
        places.append(place)
        values.append(value)
    return torch.cat(places).cpu().numpy(), torch.cat(values).cpu().numpy()


def _merge(matrix: torch.Tensor, a: np.ndarray, b: np.ndarray, width: int) -> None:
    kept, gone = (torch.from_numpy(part).to(matrix.device) for part in (a, b))
    for some, others in zip(kept.split(max(1, SLAB // width)), gone.split(max(1, SLAB // width)), strict=True):
        matrix[some, :width] = torch.maximum(matrix[some, :width], matrix[others, :width])
    step = max(1, SLAB // len(a))
    for low in range(0, width, step):
        lines = matrix[low : min(low + step, width), :width]
        lines[:, kept] = torch.maximum(lines[:, kept], lines[:, gone])
        lines[:, gone] = torch.inf
    matrix[kept, kept] = torch.inf


def _close_up(matrix: torch.Tensor, keep: np.ndarray) -> None:
    index = torch.from_numpy(keep).to(matrix.device)
    step = max(1, SLAB // len(matrix))
    for low in range(0, len(keep), step):  # rows move towards the front only, so none is overwritten unread
        part = index[low : low + step]
        matrix[low : low + len(part), : len(keep)] = matrix[part][:, index]
