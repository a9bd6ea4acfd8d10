"""Compiled work on clusters as chains of leaves: their lists of nearest clusters, centres, representatives."""

from __future__ import annotations

import numpy as np

from campaign.clustering.compiled import njit
from campaign.clustering.kernels import CONTEST, FAST, INF, SAME, TIED, UNSURE, pair
from campaign.clustering.walks import union_find_root

TIES = 4096  # pairs of masks that are looked at again; more of them are ties
COSTLY = 1 << 23  # pairs of masks from which a look in double precision is not worth it


@njit(cache=True, nogil=True)
def _insert(near: np.ndarray, far: np.ndarray, bound: np.ndarray, own: int, other: int, value: np.float32) -> None:
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


@njit(cache=True, nogil=True, fastmath=FAST)
def list_rows(
    tile: np.ndarray, rows: np.ndarray, columns: np.ndarray, near: np.ndarray, far: np.ndarray, bound: np.ndarray
) -> None:
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


@njit(cache=True, nogil=True, fastmath=FAST)
def list_columns(
    tile: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    limits: np.ndarray,
    near: np.ndarray,
    far: np.ndarray,
    bound: np.ndarray,
) -> None:
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


@njit(cache=True, nogil=True, fastmath=FAST)
def centres(
    x: np.ndarray,
    mark: np.ndarray,
    following: np.ndarray,
    ids: np.ndarray,
    out: np.ndarray,
    out_mark: np.ndarray,
    variance: np.ndarray,
) -> None:
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
            gap = pair(x[leaf], mean)
            variance[c] += gap * gap / count
            leaf = following[leaf]


@njit(cache=True, nogil=True, fastmath=FAST)
def any_near(
    tile: np.ndarray,
    row_mark: np.ndarray,
    column_mark: np.ndarray,
    row_variance: np.ndarray,
    column_variance: np.ndarray,
    row_bound: np.ndarray,
    column_bound: np.ndarray,
) -> bool:
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


@njit(cache=True, nogil=True)
def _resolve(
    own: int,
    near: np.ndarray,
    far: np.ndarray,
    part: np.ndarray,
    bound: np.ndarray,
    parent: np.ndarray,
    size: np.ndarray,
) -> int:
    """Bring a list up to date with merges, drop what is no longer certain; where the nearest stands, or -1.

    A listed cluster that has merged keeps its place only where all its parts were listed (the largest
    distance counts); otherwise its distance is at least the bound, which is all that needs to be known.
    """
    length, used = near.shape[1], 0
    for e in range(length):
        other = near[own, e]
        if other < 0:
            continue
        root = union_find_root(parent, other)
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


@njit(cache=True, nogil=True, fastmath=FAST)
def _farthest(x: np.ndarray, mark: np.ndarray, following: np.ndarray, a: int, b: int, least: np.float32) -> np.float32:
    """Complete-linkage distance of two clusters named by their chains of leaves, or more than it is known to be."""
    most, i = least, a
    while i >= 0:
        j = b
        while j >= 0:
            value = pair(x[i], x[j]) + abs(mark[i] - mark[j])
            most = max(most, value)
            j = following[j]
        i = following[i]
    return most


def _represent(
    x: np.ndarray,
    mark: np.ndarray,
    order: np.ndarray,
    starts: np.ndarray,
    low: int,
    high: int,
    most: int,
    chosen: np.ndarray,
    reach: np.ndarray,
) -> None:
    for piece in range(low, high):
        members = order[starts[piece] : starts[piece + 1]]
        if len(members) <= most:
            chosen[members] = True
            continue
        points, marks = x[members], mark[members]

        def away(own: int, points: np.ndarray = points, marks: np.ndarray = marks) -> np.ndarray:
            return np.sqrt(np.square(points - points[own]).sum(1)) + np.abs(marks - marks[own])

        current, near = int(away(0).argmax()), np.full(len(members), INF)
        for _ in range(most):
            chosen[members[current]] = True
            near = np.minimum(near, away(current))
            near[current] = 0
            if near.any():
                current = int(near.argmax())
        reach[members] = near


@njit(_represent, cache=True, nogil=True, fastmath=FAST)
def represent(
    x: np.ndarray,
    mark: np.ndarray,
    order: np.ndarray,
    starts: np.ndarray,
    low: int,
    high: int,
    most: int,
    chosen: np.ndarray,
    reach: np.ndarray,
) -> None:
    """Choose up to `most` members of pieces [low:high], farthest first, and how far the others are from them."""
    for piece in range(low, high):
        members = order[starts[piece] : starts[piece + 1]]
        if len(members) <= most:
            chosen[members] = True
            continue
        current = members[0]
        for i in range(1, len(members)):  # the farthest from any one member is at the rim
            reach[members[i]] = pair(x[members[0]], x[members[i]]) + abs(mark[members[0]] - mark[members[i]])
            if reach[members[i]] > reach[current]:
                current = members[i]
        reach[members] = INF
        for _ in range(most):
            chosen[current] = True
            farthest = current
            reach[current] = 0
            for i in range(len(members)):
                own = members[i]
                reach[own] = min(reach[own], pair(x[current], x[own]) + abs(mark[current] - mark[own]))
                if reach[own] > reach[farthest]:
                    farthest = own
            current = farthest


def _apart_in_numpy(x: np.ndarray, mark: np.ndarray, following: np.ndarray, a: int, b: int) -> float:
    one, other = _members(following, a), _members(following, b)
    first, second = x[one].astype(np.float64), x[other].astype(np.float64)
    square = np.square(first).sum(1)[:, None] + np.square(second).sum(1) - 2 * first @ second.T
    apart = np.abs(mark[one].astype(np.float64)[:, None] - mark[other])
    rough = np.sqrt(np.maximum(square, 0)) + apart
    farthest = np.flatnonzero(rough >= rough.max() / UNSURE)[:TIES]
    i, j = np.unravel_index(farthest, rough.shape)
    return float((np.sqrt(np.square(first[i] - second[j]).sum(1)) + apart[i, j]).max())


def _members(following: np.ndarray, leaf: int) -> list[int]:
    members = []
    while leaf >= 0:
        members.append(leaf)
        leaf = following[leaf]
    return members


@njit(_apart_in_numpy, cache=True, nogil=True, fastmath=FAST)
def _apart(x: np.ndarray, mark: np.ndarray, following: np.ndarray, a: int, b: int) -> float:
    """Complete-linkage distance of two clusters, in double precision where float32 cannot tell what is farthest."""
    most, rough, i = 0.0, np.float32(0), a
    while i >= 0:
        j = b
        while j >= 0:
            value = pair(x[i], x[j]) + abs(mark[i] - mark[j])
            if value * UNSURE >= rough:
                one, other, total = x[i], x[j], 0.0
                for k in range(len(one)):
                    gap = np.float64(one[k]) - np.float64(other[k])
                    total += gap * gap
                most = max(most, np.sqrt(total) + abs(np.float64(mark[i]) - np.float64(mark[j])))
                rough = max(rough, value)
            j = following[j]
        i = following[i]
    return most


@njit(cache=True, nogil=True)
def apart(
    x: np.ndarray,
    mark: np.ndarray,
    following: np.ndarray,
    size: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    out: np.ndarray,
) -> None:
    """Complete-linkage distances of pairs of clusters in double precision, -1 where that costs too much."""
    for p in range(len(first)):
        out[p] = -1
        if int(size[first[p]]) * int(size[second[p]]) <= COSTLY:
            out[p] = _apart(x, mark, following, first[p], second[p])


@njit(cache=True, nogil=True)
def decide(
    x: np.ndarray,
    mark: np.ndarray,
    following: np.ndarray,
    size: np.ndarray,
    owner: np.ndarray,
    candidate: np.ndarray,
    best: np.ndarray,
    exact: np.ndarray,
) -> None:
    """Which of its candidates each owner (leaves that stand for clusters, equal ones in a row) is nearest to.

    Writes the row of the choice to all rows of the owner, and its distance, -1 where nothing was computed.
    """
    begin = 0
    while begin < len(owner):
        end, choice, least = begin, begin, np.inf
        while end < len(owner) and owner[end] == owner[begin]:
            if int(size[owner[end]]) * int(size[candidate[end]]) <= COSTLY:
                value = _apart(x, mark, following, owner[end], candidate[end])
                if value < least:
                    choice, least = end, value
            end += 1
        best[begin:end] = choice
        exact[begin:end] = least if least < np.inf else -1.0
        begin = end


@njit(cache=True, nogil=True)
def append(following: np.ndarray, last: np.ndarray, size: np.ndarray, kept: np.ndarray, gone: np.ndarray) -> None:
    """Append the chains of leaves of some clusters to those of others."""
    for p in range(len(kept)):
        a, b = kept[p], gone[p]
        following[last[a]] = b
        last[a] = last[b]
        size[a] += size[b]


@njit(cache=True, nogil=True)
def _choose(
    own: int,
    place: int,
    x: np.ndarray,
    mark: np.ndarray,
    following: np.ndarray,
    size: np.ndarray,
    near: np.ndarray,
    far: np.ndarray,
) -> tuple[int, float]:
    """The listed cluster that is nearest in double precision, where several are too near to tell.

    With it its distance, -1 where nothing was computed.
    """
    limit, count = far[own, place] * UNSURE, 0
    for e in range(near.shape[1]):
        count += near[own, e] >= 0 and far[own, e] <= limit
    if count == 1 or count > CONTEST or limit == 0:
        return place, -1.0
    least = np.inf
    for e in range(near.shape[1]):
        other = near[own, e]
        if other >= 0 and far[own, e] <= limit and size[own] * size[other] <= COSTLY:
            value = _apart(x, mark, following, own, other)
            if value < least:
                place, least = e, value
    return place, least if least < np.inf else -1.0


@njit(cache=True, nogil=True)
def settle(
    x: np.ndarray,
    mark: np.ndarray,
    alive: np.ndarray,
    near: np.ndarray,
    far: np.ndarray,
    part: np.ndarray,
    bound: np.ndarray,
    parent: np.ndarray,
    size: np.ndarray,
    following: np.ndarray,
    last: np.ndarray,
    version: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    height: np.ndarray,
    count: int,
) -> int:
    """Merge mutually nearest clusters for as long as the lists prove that they are; returns the merges so far.

    A cluster's nearest one is proven where its distance is within the list's bound. Afterwards `bound` is
    negative for the clusters whose lists have run out.
    """
    n = len(alive)
    own_ids = np.flatnonzero(alive)
    nearest, seen = np.full(n, -1, np.int64), np.full(n, -1, np.int64)
    least, lower = np.full(n, INF, np.float32), np.zeros(n, np.float32)
    exact = np.full(n, -1.0)  # `least` in double precision, where that was needed
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
                nearest[own], seen[own], least[own], lower[own], exact[own] = -1, 0, INF, bound[own], -1
                if place >= 0 and far[own, place] <= bound[own]:
                    place, exact[own] = _choose(own, place, x, mark, following, size, near, far)
                    other = near[own, place]
                    nearest[own], seen[own] = other, version[other]
                    least[own] = lower[own] = far[own, place]
            other = nearest[own]
            if other < 0:
                continue
            mutual = nearest[other] == own and seen[other] == version[own]
            if not mutual:
                if nearest[other] >= 0 and seen[other] == version[nearest[other]]:
                    if lower[other] != least[own]:
                        continue
                    # as near as the nearest of `other`, as far as float32 can tell
                    decided = exact[other] >= 0 and size[own] * size[other] <= COSTLY
                    if decided and _apart(x, mark, following, own, other) > exact[other] * SAME:
                        continue
                # a list that has run out or is to be read again still tells how near anything can be
                elif lower[other] < least[own] * UNSURE:
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
                value, listed = far[base, e], False
                for q in range(length):
                    if near[added, q] == third:
                        value, listed = max(value, far[added, q]), True
                if not listed:
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
