"""Compiled inner loops. All release the interpreter lock, so that plain threads run them side by side."""

from __future__ import annotations

import numba
import numpy as np

# Everything but infinities: dead columns of a distance matrix hold them.
FAST = {"nnan", "nsz", "reassoc", "contract", "arcp"}
CANCELLED = np.float32(0.1)  # a squared distance below this share of the norms has lost digits
TIED = np.float32(1 - 2e-6)  # distances this close count as ties
INF = np.float32(np.inf)


@numba.njit(cache=True)
def descend(children: np.ndarray, size: np.ndarray, start: np.ndarray, n: int) -> None:
    """Set every cluster's first position in leaf order, from the root (last) down; in place."""
    for cluster in range(len(start) - 1, n - 1, -1):
        left, right = children[cluster]
        start[left] = start[cluster]
        start[right] = start[cluster] + size[left]


@numba.njit(cache=True, nogil=True)
def _root(parent: np.ndarray, leaf: int) -> int:
    root = leaf
    while parent[root] != root:
        root = parent[root]
    while parent[leaf] != root:
        parent[leaf], leaf = root, parent[leaf]
    return root


@numba.njit(cache=True, nogil=True)
def lift(left: np.ndarray, right: np.ndarray, height: np.ndarray) -> None:
    """Raise every merge to the height of its parts; each is given by one leaf of either side, parts first.

    Exact merges move by rounding alone; approximate ones may be estimated below their parts.
    """
    parent = np.arange(len(left) + 1)
    top = np.zeros(len(left) + 1)
    for t in range(len(left)):
        a, b = _root(parent, left[t]), _root(parent, right[t])
        height[t] = max(height[t], top[a], top[b])
        parent[b], top[a] = a, height[t]


@numba.njit(cache=True, nogil=True)
def label(left: np.ndarray, right: np.ndarray, height: np.ndarray, out: np.ndarray) -> None:
    """Write the SciPy array of merges sorted by height, each given by one leaf of either side."""
    n = len(left) + 1
    parent, cluster, size = np.arange(n), np.arange(n), np.ones(n, np.int64)
    for t in range(n - 1):
        a, b = _root(parent, left[t]), _root(parent, right[t])
        if size[a] < size[b]:
            a, b = b, a
        out[t, 0], out[t, 1] = min(cluster[a], cluster[b]), max(cluster[a], cluster[b])
        size[a] += size[b]
        out[t, 2], out[t, 3] = height[t], size[a]
        parent[b], cluster[a] = a, n + t


@numba.njit(cache=True, nogil=True)
def join(left: np.ndarray, right: np.ndarray, out: np.ndarray) -> None:
    """Write, for each leaf, a leaf that names its cluster after these merges."""
    n = len(out)
    parent = np.arange(n)
    for t in range(len(left)):
        parent[_root(parent, right[t])] = _root(parent, left[t])
    for leaf in range(n):
        out[leaf] = _root(parent, leaf)


@numba.njit(cache=True, nogil=True)
def bounds(linkage: np.ndarray, estimate: np.ndarray, reach: np.ndarray, out: np.ndarray) -> None:
    """Write how far each height may be from the true distance of the clusters merged.

    That is at least the estimate, at most the estimate and both sides' reach; zero where both are exact.
    """
    n = len(reach)
    most = np.zeros(n + len(linkage), np.float64)
    most[:n] = reach
    for t in range(len(linkage)):
        left, right = int(linkage[t, 0]), int(linkage[t, 1])
        spare = most[left] + most[right]
        most[n + t] = max(most[left], most[right])
        lifted = linkage[t, 2] - estimate[t]
        out[t] = max(lifted, spare - lifted)


@numba.njit(cache=True, nogil=True)
def leaves_of(linkage: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One leaf of either side of each merge of a SciPy array."""
    count = len(linkage)
    leaf = np.arange(2 * count + 1)
    first, second = np.empty(count, np.int64), np.empty(count, np.int64)
    for t in range(count):
        first[t], second[t] = leaf[int(linkage[t, 0])], leaf[int(linkage[t, 1])]
        leaf[count + 1 + t] = first[t]
    return first, second


@numba.njit(cache=True, nogil=True)
def disturb(tile, since, left, right, height, broken) -> None:
    """Mark merges with a side that is nearer to a newcomer than to the other side.

    Each row of the tile is a newcomer's distances to all masks; it is there from the height `since` on.
    """
    n = tile.shape[1]
    farthest = np.empty(2 * n - 1, np.float32)
    for i in range(tile.shape[0]):
        farthest[:n] = tile[i]
        for t in range(n - 1):
            a, b = farthest[left[t]], farthest[right[t]]
            farthest[n + t] = max(a, b)
            if height[t] > since[i] and min(a, b) * TIED < height[t]:
                broken[t] = True


@numba.njit(cache=True, nogil=True)
def rise(left: np.ndarray, right: np.ndarray, broken: np.ndarray) -> None:
    """Mark every merge above a marked one."""
    n = len(left) + 1
    for t in range(n - 1):
        if (left[t] >= n and broken[left[t] - n]) or (right[t] >= n and broken[right[t] - n]):
            broken[t] = True


# --- distances of a tile -------------------------------------------------------------------------------------


@numba.njit(cache=True, nogil=True, fastmath=FAST)
def _pair(x: np.ndarray, y: np.ndarray) -> np.float32:
    total = np.float32(0)
    for k in range(len(x)):
        total += (x[k] - y[k]) * (x[k] - y[k])
    return np.sqrt(total)


@numba.njit(cache=True, nogil=True, fastmath=FAST)
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
                    line[j] = _pair(rows[i], columns[j])


@numba.njit(cache=True, nogil=True, fastmath=FAST)
def add_marks(tile: np.ndarray, row_mark: np.ndarray, column_mark: np.ndarray) -> None:
    """Add the differences of scores to feature distances, in place."""
    for i in range(tile.shape[0]):
        line, mark = tile[i], row_mark[i]
        for j in range(tile.shape[1]):
            line[j] += abs(mark - column_mark[j])


@numba.njit(cache=True, nogil=True, fastmath=FAST)
def spread(tile: np.ndarray, centre: np.float32, diagonal: bool) -> tuple[float, float]:
    """Sums of (distance - centre) and its square over a tile of distances (above the diagonal only)."""
    first = second = 0.0
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


@numba.njit(cache=True, nogil=True, fastmath=FAST)
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


@numba.njit(cache=True, nogil=True)
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


# --- the square matrix ---------------------------------------------------------------------------------------


@numba.njit(cache=True, nogil=True, inline="never")
def _catch_up(line: np.ndarray, kept: np.ndarray, gone: np.ndarray, since: int, now: int) -> None:
    for t in range(since, now):
        value = line[gone[t]]
        if value > line[kept[t]]:
            line[kept[t]] = value
        line[gone[t]] = INF


@numba.njit(cache=True, nogil=True, fastmath=FAST)
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


@numba.njit(cache=True, nogil=True)
def scan(matrix, slot, low, high, width, stamp, kept, gone, now, rows, nearest, least):
    """Bring rows[low:high] up to date with the merges since their stamp and find their nearest clusters."""
    for r in range(low, high):
        own = rows[r]
        line = matrix[slot[own]]
        _catch_up(line, kept, gone, stamp[own], now)
        stamp[own] = now
        nearest[own], least[own] = _nearest(line, own, width)


@numba.njit(cache=True, nogil=True, fastmath=FAST)
def merge(matrix, slot, low, high, width, stamp, kept, gone, now, first, second):
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


@numba.njit(cache=True, nogil=True)
def compact(matrix, slot, low, high, width, stamp, kept, gone, now, keep):
    """Close the gaps that merged clusters left in rows keep[low:high]."""
    for r in range(low, high):
        line = matrix[slot[keep[r]]]
        _catch_up(line, kept, gone, stamp[keep[r]], now)
        for j in range(len(keep)):
            line[j] = line[keep[j]]


@numba.njit(cache=True, nogil=True)
def pair_up(count, nearest, least, known, alive, first, second) -> int:
    """Disjoint pairs of clusters that are each other's nearest (ties allowed); returns how many."""
    pairs = 0
    for i in range(count):
        if alive[i] and known[i]:
            j = nearest[i]
            if alive[j] and known[j] and least[j] == least[i]:
                first[pairs], second[pairs] = i, j
                pairs += 1
                known[i] = known[j] = False
                alive[j] = False
    return pairs


@numba.njit(cache=True, nogil=True)
def forget(count, nearest, known, alive, merged, out) -> int:
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


@numba.njit(cache=True, nogil=True)
def tip(nearest, known, alive) -> int:
    """End of the chain of nearest clusters from the first cluster alive: one whose nearest is not known."""
    own = 0
    while not alive[own]:
        own += 1
    while known[own]:
        own = nearest[own]
    return own


# --- lists of nearest clusters -------------------------------------------------------------------------------


@numba.njit(cache=True, nogil=True)
def _insert(near, far, bound, own, other, value) -> None:
    """Put a cluster in the place of the farthest one of a list; `bound` is the list's largest distance."""
    worst = 0
    for e in range(1, far.shape[1]):
        if far[own, e] > far[own, worst]:
            worst = e
    far[own, worst], near[own, worst] = value, other
    most = far[own, 0]
    for e in range(1, far.shape[1]):
        most = max(most, far[own, e])
    bound[own] = most


@numba.njit(cache=True, nogil=True, fastmath=FAST)
def list_rows(tile, rows, columns, near, far, bound) -> None:
    """Enter a tile's columns in the lists of its rows wherever they beat the bound."""
    for i in range(tile.shape[0]):
        own, line, hits = rows[i], tile[i], 0
        limit = bound[own]
        for j in range(len(line)):
            hits += line[j] < limit
        if hits:
            for j in range(len(line)):
                if line[j] < bound[own]:
                    _insert(near, far, bound, own, columns[j], line[j])


@numba.njit(cache=True, nogil=True, fastmath=FAST)
def list_columns(tile, rows, columns, limits, near, far, bound) -> None:
    """Enter a tile's rows in the lists of its columns; `limits` is scratch for the columns' bounds."""
    for j in range(tile.shape[1]):
        limits[j] = bound[columns[j]]
    for i in range(tile.shape[0]):
        line, hits = tile[i], 0
        for j in range(len(line)):
            hits += line[j] < limits[j]
        if hits:
            for j in range(len(line)):
                if line[j] < limits[j]:
                    _insert(near, far, bound, columns[j], rows[i], line[j])
                    limits[j] = bound[columns[j]]


@numba.njit(cache=True, nogil=True, fastmath=FAST)
def centres(x, mark, following, ids, out, out_mark, variance) -> None:
    """Write mean features, mean mark and mean squared distance from the mean of clusters (chains of leaves)."""
    for c in range(len(ids)):
        count, leaf, mean = 0, ids[c], out[c]
        while leaf >= 0:
            for k in range(len(mean)):
                mean[k] += x[leaf, k]
            out_mark[c] += mark[leaf]
            count += 1
            leaf = following[leaf]
        for k in range(len(mean)):
            mean[k] /= count
        out_mark[c] /= count
        leaf = ids[c]
        while count > 1 and leaf >= 0:
            gap = _pair(x[leaf], mean)
            variance[c] += gap * gap / count
            leaf = following[leaf]


@numba.njit(cache=True, nogil=True, fastmath=FAST)
def any_near(tile, row_mark, column_mark, row_variance, column_variance, row_bound, column_bound) -> bool:
    """Whether a lower bound of any two clusters' distance is below either one's bound; the tile holds centres'."""
    for i in range(tile.shape[0]):
        line, mark, variance, limit, hits = tile[i], row_mark[i], row_variance[i], row_bound[i], 0
        for j in range(len(line)):
            plain = line[j] + abs(mark - column_mark[j])
            wide = np.sqrt(line[j] * line[j] + variance + column_variance[j])
            hits += max(plain, wide) * TIED < max(limit, column_bound[j])
        if hits:
            return True
    return False


@numba.njit(cache=True, nogil=True)
def _resolve(own, near, far, part, bound, parent, size) -> int:
    """Bring a list up to date with merges, drop what is no longer certain; where the nearest stands, or -1.

    A listed cluster that has merged keeps its place only where all its parts were listed (the largest
    distance counts); otherwise its distance is at least the bound, which is all that needs to be known.
    """
    length, used = near.shape[1], 0
    for e in range(length):
        other = near[own, e]
        if other < 0:
            continue
        root = _root(parent, other)
        value, count = far[own, e], part[own, e]
        near[own, e] = -1
        if root == own:
            continue
        place = used
        for q in range(used):
            if near[own, q] == root:
                place = q
        if place < used:
            far[own, place] = max(far[own, place], value)
            part[own, place] += count
        else:
            near[own, used], far[own, used], part[own, used] = root, value, count
            used += 1
    kept, best = 0, -1
    for q in range(used):
        root, value, count = near[own, q], far[own, q], part[own, q]
        near[own, q] = -1
        if count == size[root]:
            near[own, kept], far[own, kept], part[own, kept] = root, value, count
            if best < 0 or value < far[own, best]:
                best = kept
            kept += 1
    return best


@numba.njit(cache=True, nogil=True, fastmath=FAST)
def _farthest(x, mark, following, a, b, least) -> np.float32:
    """Complete-linkage distance of two clusters given by their chains of leaves, or more than it is known to be."""
    most, i = least, a
    while i >= 0:
        j = b
        while j >= 0:
            value = _pair(x[i], x[j]) + abs(mark[i] - mark[j])
            most = max(most, value)
            j = following[j]
        i = following[i]
    return most


@numba.njit(cache=True, nogil=True, fastmath=FAST)
def represent(x, mark, order, starts, low, high, most, chosen, reach) -> None:
    """Choose up to `most` members of pieces [low:high], farthest first, and how far the others are from them."""
    for piece in range(low, high):
        members = order[starts[piece] : starts[piece + 1]]
        if len(members) <= most:
            chosen[members] = True
            continue
        current = members[0]
        for i in range(1, len(members)):  # the farthest from any one member is at the rim
            reach[members[i]] = _pair(x[members[0]], x[members[i]]) + abs(mark[members[0]] - mark[members[i]])
            if reach[members[i]] > reach[current]:
                current = members[i]
        reach[members] = INF
        for _ in range(most):
            chosen[current] = True
            farthest = current
            reach[current] = 0
            for i in range(len(members)):
                own = members[i]
                reach[own] = min(reach[own], _pair(x[current], x[own]) + abs(mark[current] - mark[own]))
                if reach[own] > reach[farthest]:
                    farthest = own
            current = farthest


@numba.njit(cache=True, nogil=True)
def settle(
    x, mark, alive, near, far, part, bound, parent, size, following, last, version, first, second, height, count
) -> int:
    """Merge mutually nearest clusters for as long as the lists prove that they are; returns the merges so far.

    A cluster's nearest one is proven where its distance is within the list's bound. Afterwards `bound` is
    negative for the clusters whose lists have run out.
    """
    n = len(alive)
    own_ids = np.flatnonzero(alive)
    nearest, seen = np.full(n, -1, np.int64), np.full(n, -1, np.int64)
    least, lower = np.full(n, INF, np.float32), np.zeros(n, np.float32)
    length, again = near.shape[1], True
    while again:
        again = False
        live = 0
        for position in range(len(own_ids)):
            own = own_ids[position]
            if not alive[own]:
                continue
            own_ids[live] = own
            live += 1
            other = nearest[own]
            if seen[own] < 0 or (other >= 0 and (not alive[other] or version[other] != seen[own])):
                place = _resolve(own, near, far, part, bound, parent, size)
                nearest[own], seen[own], least[own], lower[own] = -1, 0, INF, bound[own]
                if place >= 0 and far[own, place] <= bound[own]:
                    other = near[own, place]
                    nearest[own], seen[own] = other, version[other]
                    least[own] = lower[own] = far[own, place]
            other = nearest[own]
            if other < 0:
                continue
            mutual = nearest[other] == own and seen[other] == version[own]
            if not mutual and lower[other] < least[own] * TIED:
                continue
            # `other` may not have been read since its own nearest merged, but distances only grow
            first[count], second[count], height[count] = own, other, least[own]
            count += 1
            again = True
            _resolve(other, near, far, part, bound, parent, size)
            base, added = (own, other) if bound[own] >= bound[other] else (other, own)
            reach = bound[base]
            for e in range(length):
                third = near[base, e]
                if third < 0 or third == added:
                    near[base, e] = -1
                    continue
                value, found = far[base, e], False
                for q in range(length):
                    if near[added, q] == third:
                        value, found = max(value, far[added, q]), True
                if not found:
                    if size[added] * size[third] <= 64:
                        value = _farthest(x, mark, following, added, third, value)
                    else:
                        reach = min(reach, max(value, bound[added]))
                        near[base, e] = -1
                        continue
                far[base, e] = value
            for e in range(length):
                near[own, e], far[own, e], part[own, e] = near[base, e], far[base, e], part[base, e]
            bound[own] = reach
            following[last[own]] = other
            last[own] = last[other]
            size[own] += size[other]
            parent[other] = own
            alive[other] = False
            version[own] += 1
            seen[own], nearest[own], lower[own] = -1, -1, least[own]
        own_ids = own_ids[:live]
    for position in range(len(own_ids)):
        own = own_ids[position]
        if alive[own] and nearest[own] < 0:
            bound[own] = -1
    return count
