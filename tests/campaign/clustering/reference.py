"""Plain double-precision references that the engines are held against."""

from __future__ import annotations

import numpy as np
from scipy.cluster.hierarchy import cophenet
from scipy.cluster.hierarchy import linkage as scipy_linkage
from scipy.spatial.distance import pdist, squareform


def fused(features: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Condensed fused distances; a term whose distances are all equal keeps its unit."""
    parts = pdist(np.asarray(features, np.float64)), pdist(np.asarray(scores, np.float64)[:, None])
    total = np.zeros(len(parts[0]))
    for part in parts:
        spread = part.std() if len(part) else 0.0
        total += part / (spread if spread > 1e-6 * part.mean() else 1.0) if len(part) else part
    return total


def assert_same_tree(merges: np.ndarray, distance: np.ndarray, tolerance: float = 1e-4) -> None:
    """Heights and cophenetic distances are SciPy's."""
    expected = scipy_linkage(distance, "complete")
    scale = expected[-1, 2] or 1.0
    np.testing.assert_allclose(merges[:, 2], expected[:, 2], rtol=tolerance, atol=1e-6 * scale)
    np.testing.assert_allclose(cophenet(merges), cophenet(expected), rtol=tolerance, atol=1e-6 * scale)


def assert_complete_linkage(merges: np.ndarray, distance: np.ndarray, tolerance: float = 1e-5) -> None:
    """Every merge is of a pair at the smallest distance of all at that time: right for any breaking of ties."""
    n = len(merges) + 1
    square = squareform(distance)
    slack = tolerance * (distance.max() if len(distance) else 0)
    np.fill_diagonal(square, np.inf)
    column = dict(enumerate(range(n)))
    size = {leaf: 1 for leaf in range(n)}
    for t, (left, right, height, count) in enumerate(merges):
        a, b = column.pop(int(left)), column.pop(int(right))
        assert abs(square[a, b] - height) <= slack
        assert square[a, b] <= square.min() + slack
        assert count == size[int(left)] + size[int(right)]
        size[n + t] = int(count)
        square[a] = np.maximum(square[a], square[b])
        square[:, a] = square[a]
        square[a, a] = square[b] = square[:, b] = np.inf
        column[n + t] = a
    assert len(column) == 1


def masks(kind: str, n: int, d: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features and scores: `normal`, `blobs`, `duplicates` of a few masks, or a `grid` full of ties."""
    rng = np.random.default_rng(seed)
    if kind == "grid":
        return rng.integers(0, 3, (n, d)).astype(np.float64), rng.integers(0, 3, n) / 4
    features, scores = rng.normal(size=(n, d)), rng.random(n)
    if kind == "blobs":
        features += 8 * rng.normal(size=(4, d))[rng.integers(0, 4, n)]
    if kind == "duplicates":
        same = rng.integers(0, max(1, n // 3), n)
        features, scores = features[same], scores[same]
    return features, scores
