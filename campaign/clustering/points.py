"""Masks as points of the fused metric: checked, centred, in float32, and scaled so that distances just add."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ml_backend.errors import InputError

BLOCK = 1024  # rows and columns of a tile of distances
SAMPLED_PAIRS, PROVISIONAL_PAIRS = 1 << 24, 1 << 18
NO_SPREAD = 1e-6  # distances that differ by less than this share of their mean are all the same


@dataclass
class Points:
    """n masks; the fused distance of two is ‖x_i − x_j‖ + |mark_i − mark_j|.

    x: float32 (n, d), centred features over σ_f. norm: float32 (n,) their squared lengths.
    mark: float32 (n,) centred scores over σ_s.
    feature_scale, score_scale: σ_f and σ_s in the units of the input.
    measured: whether σ_f is final; otherwise it is a sample's, to be replaced by `rescale`.
    """

    x: np.ndarray
    norm: np.ndarray
    mark: np.ndarray
    feature_scale: float
    score_scale: float
    measured: bool = True

    def __len__(self) -> int:
        return len(self.x)

    def centre(self) -> np.float32:
        """Root mean square of the feature distances: near their mean, so that sums around it do not cancel."""
        return np.float32(np.sqrt(2 * self.norm.sum(dtype=np.float64) / max(1, len(self) - 1)))

    def rescale(self, first: float, second: float) -> float:
        """Take σ_f from the sums over all pairs of (distance - centre) and its square; returns the factor of x."""
        pairs = len(self) * (len(self) - 1) / 2
        spread = _spread(first / pairs + float(self.centre()), second / pairs - (first / pairs) ** 2)
        factor = 1 / (spread or 1 / self.feature_scale)
        self.x *= np.float32(factor)
        self.norm = _norms(self.x)
        self.feature_scale, self.measured = self.feature_scale / factor, True
        return factor

    def select(self, index: np.ndarray) -> Points:
        """The points of an index."""
        return Points(self.x[index], self.norm[index], self.mark[index], self.feature_scale, self.score_scale)


@dataclass(frozen=True)
class Source:
    """n masks whose features stay where they are, in memory or on disk; those asked for become points.

    features: (n, d) of any real dtype. centre: float64 (d,) their mean. The rest as in `Points`.
    """

    features: np.ndarray
    centre: np.ndarray
    mark: np.ndarray
    feature_scale: float
    score_scale: float
    measured: bool = True

    def __len__(self) -> int:
        return len(self.features)

    def x(self, index: np.ndarray | slice) -> np.ndarray:
        """The features of an index as points have them, float32 (k, d)."""
        # Single precision loses nothing of what was stored in it: an error of the centre moves all points alike.
        working: type = np.float32 if self.features.dtype in (np.float16, np.float32) else np.float64
        rows: np.ndarray = self.features[index].astype(working)
        rows -= self.centre.astype(working)
        rows /= working(self.feature_scale)
        return rows.astype(np.float32, copy=False)

    def select(self, index: np.ndarray) -> Points:
        """The points of an index."""
        x = self.x(index)
        return Points(x, _norms(x), self.mark[index], self.feature_scale, self.score_scale)

    def points(self) -> Points:
        """All of them."""
        x = np.empty(self.features.shape, np.float32)
        for low in range(0, len(x), BLOCK):
            x[low : low + BLOCK] = self.x(slice(low, low + BLOCK))
        return Points(x, _norms(x), self.mark, self.feature_scale, self.score_scale, self.measured)


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
    feature_scale: float | None = None,
    score_scale: float | None = None,
    seed: int = 0,
    provisional: bool = False,
) -> Points:
    """Checked input as points, all of them; arguments as for `source_of`."""
    return source_of(features, scores, feature_scale, score_scale, seed, provisional).points()


def source_of(
    features: np.ndarray,
    scores: np.ndarray,
    feature_scale: float | None = None,
    score_scale: float | None = None,
    seed: int = 0,
    provisional: bool = False,
) -> Source:
    """Checked input as a source of points. A σ of None is the standard deviation of the distances over all pairs.

    σ_s is exact. σ_f is measured on `pairs` pairs at least, in which every mask appears equally often: by default
    2²⁴, for a relative error of about 2e-4. With `provisional`, 2¹⁸ do, and whoever goes through all pairs anyway
    is to `rescale`. A spread of nothing (all distances equal, or one pair only) counts as 1: the term is then a
    constant, which changes no tree.
    """
    features = features.view(np.ndarray)  # a memory map's own class makes every read slower
    count, width = features.shape
    centre = sum((block.sum(0, dtype=np.float64) for _, block in _blocks(features)), np.zeros(width)) / max(count, 1)
    marks = np.asarray(scores, np.float64)
    marks = marks - marks.mean() if count else marks
    if score_scale is None:
        score_scale = _score_scale(marks) or 1.0
    mark = (marks / score_scale).astype(np.float32)
    is_set = feature_scale is not None
    if feature_scale is None:
        unit = max((float(np.abs(block - centre).max(initial=0)) for _, block in _blocks(features)), default=0.0) or 1.0
        raw = Source(features, centre, mark, unit, score_scale)
        feature_scale = _sampled_scale(raw, PROVISIONAL_PAIRS if provisional else SAMPLED_PAIRS, seed) * unit or 1.0
    return Source(features, centre, mark, feature_scale, score_scale, is_set or not provisional or count < 2)


def tiles(count: int) -> list[tuple[slice, slice]]:
    """Tiles that cover each pair of 0 … count once: those on the diagonal and those above it."""
    cuts = [slice(low, min(low + BLOCK, count)) for low in range(0, count, BLOCK)]
    return [(row, column) for i, row in enumerate(cuts) for column in cuts[i:]]


def _blocks(array: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    step = max(1, (1 << 20) // max(1, array[:1].size))
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


def _sampled_scale(source: Source, pairs: int, seed: int) -> float:
    count = len(source)
    if count < 2:
        return 0.0
    rng = np.random.default_rng(seed)
    order = rng.permutation(count)
    shifts = rng.choice(count - 1, min(count - 1, -(-pairs // count)), replace=False) + 1
    starts = range(0, count, BLOCK)
    norms = sum(float(_norms(source.x(slice(low, low + BLOCK))).sum(dtype=np.float64)) for low in starts)
    centre = np.sqrt(2 * norms / (count - 1))
    first = second = 0.0
    for low in starts:
        place = np.arange(low, min(low + BLOCK, count))
        own = source.x(order[place])
        for shift in shifts:
            value = np.sqrt(_norms(own - source.x(order[(place + shift) % count]))).astype(np.float64) - centre
            first += value.sum()
            second += (value * value).sum()
    first, second = first / (count * len(shifts)), second / (count * len(shifts))
    return _spread(first + centre, second - first * first)


def _spread(mean: float, variance: float) -> float:
    return float(np.sqrt(variance)) if variance > (NO_SPREAD * mean) ** 2 else 0.0
