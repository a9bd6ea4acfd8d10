"""New masks join a class's tree without a full rebuild, where most of the tree still holds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from campaign.clustering import kernels, walks
from campaign.clustering.engine import (
    Clustering,
    Progress,
    choose_engine,
    cluster,
    exact_merges,
    find_device,
    finished,
    matrix_budget,
)
from campaign.clustering.options import LinkageOptions
from campaign.clustering.points import BLOCK, Points, checked, prepare
from campaign.clustering.tree import Tree
from campaign.clustering.workers import Workers, workers
from ml_backend.errors import InputError

MOST_PIECES = 0.5  # with more than this share of its merges gone, the old tree saves little
ROWS = 64  # newcomers looked at together
_WITNESSES = np.arange(4)  # quarters of a cluster from which a mask stands for it
DRIFT = 0.02  # relative change of σ_f / σ_s from which the old tree is of another metric


@dataclass(frozen=True)
class Joined:
    """The tree of old and new masks.

    clustering: of all masks, the old ones first. reason: why it was rebuilt, "" where it was not.
    kept: int (2m-1,) for each of the m old masks' clusters its id in the new tree where it has the very same
        members, otherwise -1. Answers about the masks stay true in any case; decisions about the clusters kept do too.
    """

    clustering: Clustering
    kept: np.ndarray
    reason: str

    @property
    def rebuilt(self) -> bool:
        """Whether the old tree was put aside."""
        return bool(self.reason)


def join(
    old: Clustering,
    features: np.ndarray,
    scores: np.ndarray,
    options: LinkageOptions | None = None,
    progress: Progress | None = None,
) -> Joined:
    """The complete-linkage tree of m old masks and those that came after them.

    features, scores: (n, d) and (n,) of all masks, the old ones first and unchanged.
    A merge of the old tree still holds where neither a new mask nor anything that the new masks set free is
    nearer to either side than the two are to each other. Those merges are taken over, the others made anew, so
    the tree is the one of a rebuild with the old σ. It is rebuilt, with new σ, where the old tree is
    approximate or the whole is too large to be exact, where σ_f / σ_s has moved by 2 %, or where more than half
    of the old merges fall.
    """
    options = options or LinkageOptions()
    features, scores = checked(features, scores)
    known, total = len(old.linkage) + 1, len(features)
    if total < known:
        raise InputError("features", f"the {known} old masks and the new ones", f"{total} masks")
    device = find_device(options.device)
    reason = ""
    if old.engine != "exact" or choose_engine(total, device, options) != "exact":
        reason = "too many masks for an exact tree"
    elif known < 2:
        reason = "no tree to join"
    if not reason:
        budget = matrix_budget(features, options)
        with workers(options.threads) as team:
            sample = np.random.default_rng(options.seed).permutation(total)[: 4 * BLOCK]
            now = prepare(features[np.sort(sample)], scores[np.sort(sample)])
            was = prepare(features[np.sort(sample[sample < known])], scores[np.sort(sample[sample < known])])
            change = (now.feature_scale / now.score_scale) / (was.feature_scale / was.score_scale)
            if options.feature_scale is not None and options.score_scale is not None:
                change = (options.feature_scale / options.score_scale) / (old.feature_scale / old.score_scale)
            if abs(change - 1) > DRIFT:
                reason = f"the new masks change the balance of features and scores by {abs(change - 1):.0%}"
            else:
                points = prepare(features, scores, old.feature_scale, old.score_scale)
                tree = Tree.build(old.linkage, scores[:known])
                holds = _holds(tree, points, team)
                if holds is None:
                    reason = "too few of the old merges still hold"
                else:
                    return _extended(old, points, holds, budget, team, device, progress)
    rebuilt = cluster(features, scores, options, progress)
    return Joined(rebuilt, np.full(max(0, 2 * known - 1), -1, np.int64), reason)


def _holds(old: Tree, points: Points, team: Workers) -> np.ndarray | None:
    """Which merges of the old masks (m-1,) hold although the other points are there; None if too few do.

    A merge falls where a newcomer is nearer to one side than the two sides are to each other, and with it all
    merges above. What it had put together is then free, and a newcomer to the merges higher up.
    """
    known = old.n
    left, right = old.children[known:].T.astype(np.int64)
    height = old.height[known:]
    broken = np.zeros(known - 1, bool)
    newcomers = [np.array([leaf]) for leaf in range(known, len(points))]
    since = np.zeros(len(newcomers))
    free = np.zeros(2 * known - 1, bool)
    while newcomers:
        _disturb(points, known, newcomers, since, (left, right, height, broken), team)
        walks.rise(left, right, broken)
        whole = np.append(np.ones(known, bool), ~broken)
        whole[:-1] &= np.append(np.zeros(known, bool), broken)[old.parent[:-1]]
        whole &= ~free
        if not broken.any():
            break
        free |= whole
        pieces = np.flatnonzero(whole)
        if int(broken.sum()) > MOST_PIECES * known:
            return None
        newcomers = [old.members(piece)[_WITNESSES * int(old.size[piece]) // 4] for piece in pieces]
        since = old.height[old.parent[pieces]]
    return ~broken


def _disturb(
    points: Points,
    known: int,
    newcomers: list[np.ndarray],
    since: np.ndarray,
    merges: tuple[np.ndarray, ...],
    team: Workers,
) -> None:
    old = points.select(np.arange(known))

    def work(low: int) -> None:
        some = newcomers[low : low + ROWS]
        masks = points.select(np.concatenate(some))
        tile = masks.x @ old.x.T
        kernels.lengths(tile, masks.x, masks.norm, old.x, old.norm)
        kernels.add_marks(tile, masks.mark, old.mark)
        # two clusters are at least as far apart as any of their masks
        starts = np.cumsum([0] + [len(one) for one in some[:-1]])
        walks.disturb(np.maximum.reduceat(tile, starts), since[low : low + ROWS], *merges)

    for _ in team.each(work, range(0, len(newcomers), ROWS)):
        pass


def _extended(
    old: Clustering,
    points: Points,
    holds: np.ndarray,
    budget: int,
    team: Workers,
    device: str,
    progress: Progress | None,
) -> Joined:
    known, total = len(old.linkage) + 1, len(points)
    first, second = walks.leaves_of(old.linkage)
    kept = np.flatnonzero(holds)
    piece = np.empty(total, np.int64)
    walks.union_find_sets(first[kept], second[kept], piece)
    above = exact_merges(points, budget, team, progress, piece, device)
    merges = tuple(
        np.concatenate(pair) for pair in zip((first[kept], second[kept], old.linkage[kept, 2]), above, strict=True)
    )
    clustering, position = finished(merges, None, device, points)  # type: ignore[arg-type]
    ids = np.full(2 * known - 1, -1, np.int64)
    ids[:known] = np.arange(known)
    ids[known + kept] = total + position[: len(kept)]
    return Joined(clustering, ids, "")
