"""Approximate complete linkage of millions of masks, at a cost that grows with n.

1. The masks are parted into neighbourhoods of a few thousand; each gets its exact complete-linkage tree.
2. All those trees are cut at one height, so that the pieces (micro-clusters) hold `micro_size` masks on average.
3. Every piece is represented by a few of its masks, chosen farthest first, and exact complete linkage goes on
   above the pieces with the distances of the representatives.

Features are read where they lie, those of a neighbourhood or of some pieces at a time, so that memory hardly grows with
their number. Merges inside a piece are exact. One above is at most too low by how far the masks of either side are from
their nearest representative: the bound returned with it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from campaign.clustering import chains, walks
from campaign.clustering.dense import Merges
from campaign.clustering.grouping import groups
from campaign.clustering.points import Source
from campaign.clustering.workers import Workers

NEIGHBOURHOOD = 8192
REPRESENTATIVES = 4
MOST_PIECES = 60_000  # above 1.2 million masks the pieces grow instead


def approximate_merges(
    points: Source,
    micro_size: int,
    exact: Callable[..., Merges],
    team: Workers,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[Merges, np.ndarray]:
    """All n-1 merges and, per leaf, how far it is from its piece's nearest representative.

    exact: returns the merges of points, by local index; takes `pieces`, clusters to start from, as an array that
    names each point's cluster by one of its points.
    """
    inner: list[Merges] = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
    parts = groups(points, NEIGHBOURHOOD, team, seed)
    done = 0
    for members in parts:
        if len(members) > 1:
            left, right, height = exact(points.select(members))
            inner.append((members[left], members[right], height))
        done += len(members)
        if progress:
            progress("neighbourhoods", done, len(points))
    left, right, height = (np.concatenate(column) for column in zip(*inner, strict=True))
    pieces = min(MOST_PIECES, -(-len(points) // micro_size))
    keep = np.sort(np.argsort(height, kind="stable")[: max(0, len(points) - max(pieces, len(parts)))])
    left, right, height = left[keep], right[keep], height[keep]
    piece = np.empty(len(points), np.int64)
    walks.union_find_sets(left, right, piece)
    order = np.argsort(piece, kind="stable")
    starts = np.flatnonzero(np.diff(piece[order], prepend=-1))
    starts = np.append(starts, len(order))
    chosen = np.zeros(len(points), bool)
    reach = np.zeros(len(points), np.float32)

    def represent(some: tuple[int, int]) -> None:
        own = starts[some[0] : some[1] + 1]
        members = order[own[0] : own[-1]]
        part, stands = points.select(members), np.zeros(len(members), bool)
        away, places, count = np.zeros(len(members), np.float32), np.arange(len(members)), len(own) - 1
        chains.represent(part.x, part.mark, places, own - own[0], 0, count, REPRESENTATIVES, stands, away)
        chosen[members], reach[members] = stands, away

    cuts = np.unique(np.searchsorted(starts, np.append(np.arange(0, len(points), NEIGHBOURHOOD), len(points))))
    for _ in team.each(represent, itertools.pairwise(cuts.tolist())):
        pass
    leaves = np.flatnonzero(chosen)
    _, first = np.unique(piece[leaves], return_index=True)
    stand_in = np.empty(len(points), np.int64)
    stand_in[piece[leaves[first]]] = first
    above = exact(points.select(leaves), stand_in[piece[leaves]], progress)
    upper = leaves[above[0]], leaves[above[1]], above[2]
    merged = tuple(np.concatenate(pair) for pair in zip((left, right, height), upper, strict=True))
    return merged, reach  # type: ignore[return-value]
