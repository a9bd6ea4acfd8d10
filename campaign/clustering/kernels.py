"""Compiled inner loops over tiles and rows of distances.

All release the interpreter lock, so that plain threads run them side by side.
"""

from __future__ import annotations

import numpy as np

from campaign.clustering.compiled import njit

# Everything but infinities: dead columns of a distance matrix hold them.
FAST = {"nnan", "nsz", "reassoc", "contract", "arcp"}
CANCELLED = np.float32(0.1)  # a squared distance below this share of the norms has lost digits
TIED = np.float32(1 - 2e-6)  # float32 distances are not to be told apart more closely
UNSURE = np.float32(1 + 8e-6)  # the nearest is looked for again, in double precision, among those so near
SAME = 1 + 1e-12  # double-precision distances that are ties
CONTEST = 8  # so many at most; more of them are ties, and any will do
INF = np.float32(np.inf)


def _pair(x: np.ndarray, y: np.ndarray) -> np.float32:
    return np.sqrt(np.square(x - y).sum())


@njit(_pair, cache=True, nogil=True, fastmath=FAST)
def pair(x: np.ndarray, y: np.ndarray) -> np.float32:
    """Euclidean distance of two points."""
    total = np.float32(0)
    for k in range(len(x)):
        total += (x[k] - y[k]) * (x[k] - y[k])
    return np.sqrt(total)


@njit(cache=True, nogil=True, fastmath=FAST)
def lengths(
    tile: np.ndarray, rows: np.ndarray, row_norm: np.ndarray, columns: np.ndarray, column_norm: np.ndarray
) -> None:
    """Turn dot products into feature distances, in place; pairs that nearly coincide are subtracted first."""
    two, zero, width = np.float32(2), np.float32(0), tile.shape[1]
    for i in range(tile.shape[0]):
        line, norm = tile[i], row_norm[i]
        lost = 0
        for j in range(width):
            both = norm + column_norm[j]
            square = max(both - two * line[j], zero)
            lost += square < CANCELLED * both
            line[j] = np.sqrt(square)
        if lost:
            for j in range(width):
                if line[j] * line[j] < CANCELLED * (norm + column_norm[j]):
                    line[j] = pair(rows[i], columns[j])


@njit(cache=True, nogil=True, fastmath=FAST)
def add_marks(tile: np.ndarray, row_mark: np.ndarray, column_mark: np.ndarray) -> None:
    """Add the differences of scores to feature distances, in place."""
    for i in range(tile.shape[0]):
        line, mark = tile[i], row_mark[i]
        for j in range(tile.shape[1]):
            line[j] += abs(mark - column_mark[j])


@njit(cache=True, nogil=True, fastmath=FAST)
def spread(tile: np.ndarray, centre: np.float32, diagonal: bool) -> tuple[float, float]:
    """Sums of (distance - centre) and its square over a tile of distances (above the diagonal only)."""
    first, second = np.float64(0), np.float64(0)
    for i in range(tile.shape[0]):
        line = tile[i, i + 1 if diagonal else 0 :]
        one = square = np.float32(0)
        for j in range(len(line)):
            value = line[j] - centre
            one += value
            square += value * value
        first += one
        second += square
    return first, second


@njit(cache=True, nogil=True, fastmath=FAST)
def raise_to(target: np.ndarray, tile: np.ndarray, rows: np.ndarray, starts: np.ndarray, low: int) -> None:
    """Raise the distances of clusters to the largest of their masks' distances.

    rows: the cluster of each row of the tile. starts: where each layer of columns begins (and where the last
    one ends); a layer holds one mask of each of the first clusters. low: number of the tile's first column.
    """
    high = low + tile.shape[1]
    for i in range(tile.shape[0]):
        goal, line = target[rows[i]], tile[i]
        for layer in range(len(starts) - 1):
            begin, end = max(starts[layer], low), min(starts[layer + 1], high)
            if begin < end:
                to, some = goal[begin - starts[layer] : end - starts[layer]], line[begin - low : end - low]
                for j in range(len(some)):
                    to[j] = max(to[j], some[j])


@njit(cache=True, nogil=True)
def mirror(target: np.ndarray, tile: np.ndarray) -> None:
    """Write the transpose of a tile, in squares that fit the cache."""
    height, width, side = tile.shape[0], tile.shape[1], 32
    for top in range(0, height, side):
        for left in range(0, width, side):
            some = tile[top : top + side, left : left + side]
            goal = target[left : left + side, top : top + side]
            for j in range(some.shape[1]):
                for i in range(some.shape[0]):
                    goal[j, i] = some[i, j]


@njit(cache=True, nogil=True, inline="never")
def _catch_up(line: np.ndarray, kept: np.ndarray, gone: np.ndarray, since: int, now: int) -> None:
    for t in range(since, now):
        value = line[gone[t]]
        if value > line[kept[t]]:
            line[kept[t]] = value
        line[gone[t]] = INF


@njit(cache=True, nogil=True, fastmath=FAST)
def _nearest(line: np.ndarray, own: int, width: int) -> tuple[int, np.float32]:
    """Smallest value and where, looking from `own` on and around, so that ties pair off along a line."""
    block = 512
    bits = line.view(np.int32)  # distances sort as their bits do, and compilers find the least integer faster
    blocks, home = (width + block - 1) // block, own // block
    best, where = np.int32(np.iinfo(np.int32).max), home
    for step in range(blocks + 1):
        number = (home + step) % blocks
        low = number * block if step else own
        some = bits[low : min(width, number * block + block)]
        least = some[0]
        for j in range(len(some)):
            least = min(least, some[j])
        if least < best:
            best, where = least, low
    for j in range(where, width):
        if bits[j] == best:
            return j, line[j]
    return own, INF


@njit(cache=True, nogil=True)
def scan(
    matrix: np.ndarray,
    slot: np.ndarray,
    low: int,
    high: int,
    width: int,
    stamp: np.ndarray,
    kept: np.ndarray,
    gone: np.ndarray,
    now: int,
    rows: np.ndarray,
    nearest: np.ndarray,
    least: np.ndarray,
    rivals: np.ndarray,
) -> None:
    """Bring rows[low:high] up to date with the merges since their stamp and find their nearest clusters."""
    for r in range(low, high):
        own = rows[r]
        line = matrix[slot[own]]
        _catch_up(line, kept, gone, stamp[own], now)
        stamp[own] = now
        nearest[own], least[own] = _nearest(line, own, width)
        limit, near = least[own] * UNSURE, 0
        for j in range(width):
            near += line[j] <= limit
        rivals[own] = near if near <= CONTEST and least[own] > 0 else 1


@njit(cache=True, nogil=True, fastmath=FAST)
def merge(
    matrix: np.ndarray,
    slot: np.ndarray,
    low: int,
    high: int,
    width: int,
    stamp: np.ndarray,
    kept: np.ndarray,
    gone: np.ndarray,
    now: int,
    first: np.ndarray,
    second: np.ndarray,
) -> None:
    """For pairs [low:high], make the first one's row the larger of both (complete linkage)."""
    for p in range(low, high):
        a, b = first[p], second[p]
        line, other = matrix[slot[a]], matrix[slot[b]]
        _catch_up(line, kept, gone, stamp[a], now)
        _catch_up(other, kept, gone, stamp[b], now)
        stamp[a] = now
        for j in range(width):
            line[j] = max(line[j], other[j])
        line[a] = line[b] = INF


@njit(cache=True, nogil=True)
def compact(
    matrix: np.ndarray,
    slot: np.ndarray,
    low: int,
    high: int,
    width: int,
    stamp: np.ndarray,
    kept: np.ndarray,
    gone: np.ndarray,
    now: int,
    keep: np.ndarray,
) -> None:
    """Close the gaps that merged clusters left in rows keep[low:high]."""
    for r in range(low, high):
        line = matrix[slot[keep[r]]]
        _catch_up(line, kept, gone, stamp[keep[r]], now)
        for j in range(len(keep)):
            line[j] = line[keep[j]]


def _pair_up(
    count: int,
    nearest: np.ndarray,
    least: np.ndarray,
    known: np.ndarray,
    alive: np.ndarray,
    exact: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
) -> int:
    ready = alive[:count] & known[:count]
    pairs = 0
    # What is not ready now does not become so by the merges of others, and few of those that are merge.
    other = nearest[:count]
    tied = (nearest[other] == np.arange(count)) | (least[other] == least[:count])
    for i in np.flatnonzero(ready & ready[other] & tied).tolist():
        j = nearest[i]
        if alive[i] and known[i] and alive[j] and known[j]:
            tie = least[j] == least[i] and (exact[i] < 0 or exact[j] < 0 or exact[i] <= exact[j] * SAME)
            if nearest[j] == i or tie:
                first[pairs], second[pairs] = i, j
                pairs += 1
                known[i] = known[j] = alive[j] = False
    return pairs


@njit(_pair_up, cache=True, nogil=True)
def pair_up(
    count: int,
    nearest: np.ndarray,
    least: np.ndarray,
    known: np.ndarray,
    alive: np.ndarray,
    exact: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
) -> int:
    """Disjoint pairs of clusters that are each other's nearest (ties allowed); returns how many.

    `exact` has distances in double precision where they were needed to tell what ties are, otherwise -1.
    """
    pairs = 0
    for i in range(count):
        if alive[i] and known[i]:
            j = nearest[i]
            tied = least[j] == least[i] and (exact[i] < 0 or exact[j] < 0 or exact[i] <= exact[j] * SAME)
            if alive[j] and known[j] and (nearest[j] == i or tied):
                first[pairs], second[pairs] = i, j
                pairs += 1
                known[i] = known[j] = False
                alive[j] = False
    return pairs


@njit(cache=True, nogil=True)
def contest(
    matrix: np.ndarray,
    slot: np.ndarray,
    rows: np.ndarray,
    width: int,
    least: np.ndarray,
    rivals: np.ndarray,
    owner: np.ndarray,
    candidate: np.ndarray,
) -> int:
    """List the rivals for nearest cluster of the rows that have several; returns how many."""
    count = 0
    for r in range(len(rows)):
        own = rows[r]
        if rivals[own] > 1:
            line = matrix[slot[own]]
            for j in range(width):
                if line[j] <= least[own] * UNSURE:
                    owner[count], candidate[count] = own, j
                    count += 1
    return count


def _forget(
    count: int, nearest: np.ndarray, known: np.ndarray, alive: np.ndarray, merged: np.ndarray, out: np.ndarray
) -> int:
    known[:count] &= ~(alive[:count] & merged[nearest[:count]])
    stale = np.flatnonzero(alive[:count] & ~known[:count])
    out[: len(stale)] = stale
    return len(stale)


@njit(_forget, cache=True, nogil=True)
def forget(
    count: int, nearest: np.ndarray, known: np.ndarray, alive: np.ndarray, merged: np.ndarray, out: np.ndarray
) -> int:
    """Clusters whose nearest one is not known or has just merged, into `out`; returns how many."""
    stale = 0
    for i in range(count):
        if alive[i]:
            if known[i] and merged[nearest[i]]:
                known[i] = False
            if not known[i]:
                out[stale] = i
                stale += 1
    return stale


def _tip(nearest: np.ndarray, known: np.ndarray, alive: np.ndarray) -> int:
    own = int(alive.argmax())
    while known[own]:
        own = int(nearest[own])
    return own


@njit(_tip, cache=True, nogil=True)
def tip(nearest: np.ndarray, known: np.ndarray, alive: np.ndarray) -> int:
    """End of the chain of nearest clusters from the first cluster alive: one whose nearest is not known."""
    own = 0
    while not alive[own]:
        own += 1
    while known[own]:
        own = nearest[own]
    return own
