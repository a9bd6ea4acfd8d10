"""Compiled walks over merges and trees."""

from __future__ import annotations

import numpy as np

from campaign.clustering.compiled import njit
from campaign.clustering.kernels import TIED


@njit(cache=True)
def descend(children: np.ndarray, size: np.ndarray, start: np.ndarray, n: int) -> None:
    """Set every cluster's first position in leaf order, from the root (last) down; in place."""
    for cluster in range(len(start) - 1, n - 1, -1):
        left, right = children[cluster]
        start[left] = start[cluster]
        start[right] = start[cluster] + size[left]


@njit(cache=True, nogil=True)
def union_find_root(parent: np.ndarray, leaf: int) -> int:
    """The leaf that stands for the set which a leaf is in; `parent` is compressed on the way."""
    root = leaf
    while parent[root] != root:
        root = parent[root]
    while parent[leaf] != root:
        parent[leaf], leaf = root, parent[leaf]
    return root


@njit(cache=True, nogil=True)
def lift(left: np.ndarray, right: np.ndarray, height: np.ndarray) -> None:
    """Raise every merge to the height of its parts; each is named by one leaf of either side, parts first.

    Exact merges move by rounding alone; approximate ones may be estimated below their parts.
    """
    parent = np.arange(len(left) + 1)
    top = np.zeros(len(left) + 1)
    for t in range(len(left)):
        a, b = union_find_root(parent, left[t]), union_find_root(parent, right[t])
        height[t] = max(height[t], top[a], top[b])
        parent[b], top[a] = a, height[t]


@njit(cache=True, nogil=True)
def label(left: np.ndarray, right: np.ndarray, height: np.ndarray, out: np.ndarray) -> None:
    """Write the SciPy array of merges sorted by height, each named by one leaf of either side."""
    n = len(left) + 1
    parent, cluster, size = np.arange(n), np.arange(n), np.ones(n, np.int64)
    for t in range(n - 1):
        a, b = union_find_root(parent, left[t]), union_find_root(parent, right[t])
        if size[a] < size[b]:
            a, b = b, a
        out[t, 0], out[t, 1] = min(cluster[a], cluster[b]), max(cluster[a], cluster[b])
        size[a] += size[b]
        out[t, 2], out[t, 3] = height[t], size[a]
        parent[b], cluster[a] = a, n + t


@njit(cache=True, nogil=True)
def union_find_sets(left: np.ndarray, right: np.ndarray, out: np.ndarray) -> None:
    """Write, for each leaf, the leaf that stands for its cluster after these merges."""
    n = len(out)
    parent = np.arange(n)
    for t in range(len(left)):
        parent[union_find_root(parent, right[t])] = union_find_root(parent, left[t])
    for leaf in range(n):
        out[leaf] = union_find_root(parent, leaf)


@njit(cache=True, nogil=True)
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


@njit(cache=True, nogil=True)
def leaves_of(linkage: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One leaf of either side of each merge of a SciPy array."""
    count = len(linkage)
    leaf = np.arange(2 * count + 1)
    first, second = np.empty(count, np.int64), np.empty(count, np.int64)
    for t in range(count):
        first[t], second[t] = leaf[int(linkage[t, 0])], leaf[int(linkage[t, 1])]
        leaf[count + 1 + t] = first[t]
    return first, second


@njit(cache=True, nogil=True)
def disturb(
    tile: np.ndarray, since: np.ndarray, left: np.ndarray, right: np.ndarray, height: np.ndarray, broken: np.ndarray
) -> None:
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


@njit(cache=True, nogil=True)
def rise(left: np.ndarray, right: np.ndarray, broken: np.ndarray) -> None:
    """Mark every merge above a marked one."""
    n = len(left) + 1
    for t in range(n - 1):
        if (left[t] >= n and broken[left[t] - n]) or (right[t] >= n and broken[right[t] - n]):
            broken[t] = True
