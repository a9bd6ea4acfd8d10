"""Masks as points of the fused metric: checked, centred, in float32, and scaled so that distances just add."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from campaign.clustering import kernels
from campaign.clustering.workers import Workers
from ml_backend.errors import InputError

BLOCK = 1024  # rows and columns of a tile of distances
EXACT_SCALE = 250_000  # above so many masks σ_f is measured on a sample of pairs
SAMPLED_PAIRS = 1 << 24
NO_SPREAD = 1e-6  # distances that differ by less than this share of their mean are all the same


@dataclass(frozen=True)
class Points:
    """n masks; the fused distance of two is ‖x_i − x_j‖ + |mark_i − mark_j|.

    x: float32 (n, d), centred features over σ_f. norm: float32 (n,) their squared lengths.
    mark: float32 (n,) centred scores over σ_s.
    feature_scale, score_scale: σ_f and σ_s in the units of the input.
    """

    x: np.ndarray
    norm: np.ndarray
    mark: np.ndarray
    feature_scale: float
    score_scale: float

    def __len__(self) -> int:
        return len(self.x)

    def select(self, index: np.ndarray) -> Points:
        """The points of an index."""
        return Points(self.x[index], self.norm[index], self.mark[index], self.feature_scale, self.score_scale)


def checked(features: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as numeric arrays of shapes (n, d) and (n,) without gaps; InputError names the first bad row."""
    features, scores = np.asanyarray(features), np.asanyarray(scores)
    if features.ndim != 2:
        raise InputError("features", "shape (n, d)", features.shape)
    if scores.shape != (len(features),):
        raise InputError("scores", f"shape ({len(features)},)", scores.shape)
    for name, array in (("features", features), ("scores", scores)):
        if array.dtype.kind not in "fiub":
            raise InputError(name, "real numbers", array.dtype)
        for low, block in _blocks(array):
            bad = ~np.isfinite(block).reshape(len(block), -1).all(1)
            if bad.any():
                raise InputError(f"{name} of mask {low + int(bad.argmax())}", "finite numbers", "NaN or infinity")
    return features, scores


def prepare(
    features: np.ndarray,
    scores: np.ndarray,
    team: Workers,
    feature_scale: float | None = None,
    score_scale: float | None = None,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Points:
    """The points of checked input. σ not given is the standard deviation of the distances over all pairs.

    σ_s is exact. σ_f is exact up to 250,000 masks and beyond that measured on 2²⁴ pairs, in which every mask
    appears equally often (relative error about 2e-4). A spread of nothing (all distances equal, or one pair
    only) counts as 1: the term is then a constant, which changes no tree.
    """
    count, width = features.shape
    x = np.empty((count, width), np.float32)
    centre = sum((block.sum(0, dtype=np.float64) for _, block in _blocks(features)), np.zeros(width)) / max(count, 1)
    largest = max((float(np.abs(block - centre).max(initial=0)) for _, block in _blocks(features)), default=0.0)
    unit = largest or 1.0
    for low, block in _blocks(features):
        x[low : low + len(block)] = (block - centre) / unit
    norm = _norms(x)
    if feature_scale is None:
        feature_scale = _feature_scale(x, norm, team, seed, progress) * unit or 1.0
    marks = np.asarray(scores, np.float64)
    marks = marks - marks.mean() if count else marks
    if score_scale is None:
        score_scale = _score_scale(marks) or 1.0
    x *= np.float32(unit / feature_scale)
    return Points(x, _norms(x), (marks / score_scale).astype(np.float32), feature_scale, score_scale)


def tiles(count: int) -> list[tuple[slice, slice]]:
    """Tiles that cover each pair of 0 … count once: those on the diagonal and those above it."""
    cuts = [slice(low, min(low + BLOCK, count)) for low in range(0, count, BLOCK)]
    return [(row, column) for i, row in enumerate(cuts) for column in cuts[i:]]


def _blocks(array: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    step = max(1, (1 << 22) // max(1, array[:1].size))
    for low in range(0, len(array), step):
        yield low, np.asarray(array[low : low + step], np.float64)


def _norms(x: np.ndarray) -> np.ndarray:
    return np.einsum("ij,ij->i", x, x)


def _score_scale(marks: np.ndarray) -> float:
    count = len(marks)
    if count < 2:
        return 0.0
    rank = 2 * np.arange(count) - count + 1
    mean = 2 * float(rank @ np.sort(marks)) / (count * (count - 1))
    return _spread(mean, 2 * float(marks @ marks) / (count - 1) - mean * mean)


def _feature_scale(
    x: np.ndarray,
    norm: np.ndarray,
    team: Workers,
    seed: int,
    progress: Callable[[str, int, int], None] | None,
) -> float:
    count = len(x)
    if count < 2:
        return 0.0
    pairs = count * (count - 1) / 2
    centre = np.float32(np.sqrt(2 * norm.sum(dtype=np.float64) / (count - 1)))  # root mean square distance
    if count <= EXACT_SCALE:
        nothing = np.zeros(count, np.float32)

        def sums(tile: tuple[slice, slice]) -> tuple[float, float]:
            rows, columns = tile
            tile = x[rows] @ x[columns].T
            kernels.fuse(tile, x[rows], norm[rows], nothing[rows], x[columns], norm[columns], nothing[columns])
            return kernels.spread(tile, centre, rows == columns)

        parts, jobs = [], tiles(count)
        for part in team.each(sums, jobs):
            parts.append(part)
            if progress:
                progress("scale", len(parts), len(jobs))
    else:
        order = np.random.default_rng(seed).permutation(count)
        shifts = np.random.default_rng(seed + 1).choice(count - 1, -(-SAMPLED_PAIRS // count), replace=False) + 1
        pairs = float(count * len(shifts))
        parts = []
        for low in range(0, count, BLOCK):
            place = np.arange(low, min(low + BLOCK, count))
            own = x[order[place]]
            for shift in shifts:
                gap = own - x[order[(place + shift) % count]]
                value = np.sqrt(_norms(gap)).astype(np.float64) - centre
                parts.append((value.sum(), (value * value).sum()))
    first, second = (sum(part) / pairs for part in zip(*parts, strict=True))
    return _spread(first + float(centre), second - first * first)


def _spread(mean: float, variance: float) -> float:
    return float(np.sqrt(variance)) if variance > (NO_SPREAD * mean) ** 2 else 0.0
