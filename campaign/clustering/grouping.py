"""Neighbourhoods: points parted into groups of bounded size, so that near ones mostly share a group."""

from __future__ import annotations

import numpy as np

from campaign.clustering.points import Points, Source
from campaign.clustering.workers import Workers

SAMPLE = 64  # points per centre that k-means sees
FANOUT = 64  # parts that one k-means makes
ROUNDS = 8
STEP = 8192


def groups(points: Points | Source, largest: int, team: Workers, seed: int = 0) -> list[np.ndarray]:
    """Disjoint sets of indexes covering all points, none above `largest`; deterministic for a seed."""
    rng = np.random.default_rng(seed)
    open_sets, finished = [np.arange(len(points))], []
    while open_sets:
        members = open_sets.pop()
        if len(members) <= largest:
            finished.append(members)
            continue
        parts = min(FANOUT, -(-2 * len(members) // largest))
        label = _k_means(points, members, parts, team, rng)
        order = np.argsort(label, kind="stable")
        pieces = [piece for piece in np.split(members[order], np.cumsum(np.bincount(label))[:-1]) if len(piece)]
        if len(pieces) == 1:  # all alike
            pieces = np.array_split(members, -(-len(members) // largest))
        open_sets += pieces[::-1]
    return finished


def _k_means(
    points: Points | Source, members: np.ndarray, parts: int, team: Workers, rng: np.random.Generator
) -> np.ndarray:
    sample = points.select(np.sort(rng.choice(members, min(len(members), SAMPLE * parts), replace=False)))
    centres = sample.select(rng.choice(len(sample), parts, replace=False))
    x, mark = centres.x.copy(), centres.mark.copy()
    for _ in range(ROUNDS):
        label = _assign(sample.x, sample.norm, sample.mark, x, mark)
        count = np.bincount(label, minlength=parts)
        held = count > 0
        order = np.argsort(label, kind="stable")
        starts = (np.cumsum(count) - count)[held]
        x[held] = np.add.reduceat(sample.x[order], starts, axis=0) / count[held, None].astype(np.float32)
        mark[held] = np.bincount(label, sample.mark, parts)[held] / count[held]

    def label_part(low: int) -> np.ndarray:
        part = points.select(members[low : low + STEP])
        return _assign(part.x, part.norm, part.mark, x, mark)

    return np.concatenate(list(team.each(label_part, range(0, len(members), STEP))))


def _assign(x: np.ndarray, norm: np.ndarray, mark: np.ndarray, centres: np.ndarray, levels: np.ndarray) -> np.ndarray:
    square = norm[:, None] + np.einsum("ij,ij->i", centres, centres) - 2 * (x @ centres.T)
    return (np.sqrt(np.maximum(square, 0)) + np.abs(mark[:, None] - levels)).argmin(1)
