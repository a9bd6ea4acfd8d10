"""The exact engine on a GPU, by PyTorch. The host keeps lists and merges; the device computes and holds distances.

Runs on any PyTorch device, its CPU included, with the same results up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch

from campaign.clustering import kernels, neighbours
from campaign.clustering.compiled import COMPILED
from campaign.clustering.dense import Merges, Rows, dense_merges, joined
from campaign.clustering.neighbours import Clusters
from campaign.clustering.points import Points
from campaign.clustering.workers import Workers

ROWS, COLUMNS = 4096, 16384  # clusters in a tile
MASKS = 16384  # masks on a side of what is computed at once
HANDOVER = 2048 if COMPILED else 1  # the last clusters merge faster on the host, by compiled code
SLAB = 1 << 26  # matrix elements moved at once
SPARE = 8 << 30  # bytes of device memory left to tiles and PyTorch; 4 of them where all masks of a tile coincide


class DeviceClusters(Clusters):
    """Clusters whose distances are computed on a device."""

    def __init__(self, points: Points, team: Workers, pieces: np.ndarray | None = None, device: str = "cuda"):
        super().__init__(points, team, pieces)
        self.device = torch.device(device)
        self.x, self.norm, self.mark = (
            torch.from_numpy(np.ascontiguousarray(part)).to(self.device)
            for part in (points.x, points.norm, points.mark)
        )

    def matrix_budget(self) -> int:
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
            self._fill(rows.clusters, near.cpu().numpy(), best.cpu().numpy(), complete=length == len(ids) - 1)
            if progress:
                progress(min(low + ROWS, wanted), wanted)

    def _fill(self, rows: np.ndarray, near: np.ndarray, far: np.ndarray, complete: bool) -> None:
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
        return device_merges(matrix, leaves, self, merging)

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


class DeviceRows(Rows):
    """Rows on a device, merged at once."""

    def __init__(self, matrix: torch.Tensor, leaves: np.ndarray, clusters: DeviceClusters):
        matrix.fill_diagonal_(torch.inf)
        self.matrix = matrix
        super().__init__(leaves, clusters)

    def look(self, rows: np.ndarray) -> None:
        """Set `nearest`, `least` and `rivals` of some rows."""
        done = 0
        for part in self._index(rows).split(max(1, SLAB // self.width)):
            lines = self.matrix[part, : self.width]
            value, place = lines.min(1)
            near = (lines <= value[:, None] * float(kernels.UNSURE)).sum(1)
            tied = ((lines == value[:, None]).sum(1) > 1).nonzero()[:, 0]
            for some in tied.split(max(1, SLAB // (4 * self.width))):
                # the next one after the row's own place, so that ties pair off along a line
                steps = (torch.arange(self.width, device=self.matrix.device) - part[some, None]) % self.width
                place[some] = torch.where(lines[some] == value[some, None], steps, self.width).argmin(1)
            near[(near > kernels.CONTEST) | (value == 0)] = 1
            own = rows[done : done + len(part)]
            for goal, column in ((self.nearest, place), (self.least, value), (self.rivals, near)):
                goal[own] = column.cpu().numpy()
            done += len(part)

    def contest(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Owner, rival for its nearest and their distance, for the rows that have several rivals."""
        several = rows[self.rivals[rows] > 1]
        parts = []
        for part in np.array_split(several, -(-len(several) * self.width // SLAB)):
            lines = self.matrix[self._index(part), : self.width]
            limit = torch.from_numpy(self.least[part] * kernels.UNSURE).to(lines.device)
            i, j = (lines <= limit[:, None]).nonzero(as_tuple=True)
            parts.append((part[i.cpu().numpy()], j.cpu().numpy(), lines[i, j].cpu().numpy()))
        owner, rival, distance = (np.concatenate(column) for column in zip(*parts, strict=True))
        return owner, rival, distance

    def unite(self, a: np.ndarray, b: np.ndarray) -> None:
        """Make rows and columns `a` the larger of `a` and `b` (complete linkage), and drop `b`."""
        width, matrix = self.width, self.matrix
        kept, gone = self._index(a), self._index(b)
        step = max(1, SLAB // width)
        for some, others in zip(kept.split(step), gone.split(step), strict=True):
            matrix[some, :width] = torch.maximum(matrix[some, :width], matrix[others, :width])
        step = max(1, SLAB // len(a))
        for low in range(0, width, step):
            lines = matrix[low : min(low + step, width), :width]
            lines[:, kept] = torch.maximum(lines[:, kept], lines[:, gone])
            lines[:, gone] = torch.inf
        matrix[kept, kept] = torch.inf

    def close_up(self, keep: np.ndarray) -> None:
        """Drop all rows and columns but these; rows move towards the front only, so none is overwritten unread."""
        index = self._index(keep)
        step = max(1, SLAB // len(self.matrix))
        for low in range(0, len(keep), step):
            part = index[low : low + step]
            self.matrix[low : low + len(part), : len(keep)] = self.matrix[part, : self.width][:, index]

    def _index(self, numbers: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(numbers).to(self.matrix.device)


def device_merges(
    matrix: torch.Tensor,
    leaves: np.ndarray,
    clusters: DeviceClusters,
    progress: Callable[[int, int], None] | None = None,
) -> Merges:
    """All merges of complete linkage on a symmetric (m, m) float32 matrix on a device, which is used up."""
    total, rows = len(matrix), DeviceRows(matrix, leaves, clusters)
    merges = list(rows.merges(HANDOVER, progress))
    rows.shrink()
    left = rows.left
    rest = np.ascontiguousarray(matrix[:left, :left].cpu().numpy())
    report = progress and (lambda done, _: progress(total - left + done, total - 1))
    return joined([*merges, dense_merges(rest, rows.leaf, clusters.team, report, clusters)])
