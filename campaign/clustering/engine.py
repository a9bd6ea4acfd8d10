"""From features and scores to a SciPy linkage array."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from campaign.clustering.options import LinkageOptions
from ml_backend.errors import InputError

Progress = Callable[[str, int, int], None]


def linkage(
    features: np.ndarray,
    scores: np.ndarray,
    options: LinkageOptions | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """Complete linkage of n masks under the fused distance; SciPy's (n-1, 4) float64 array."""
    features, scores = np.asarray(features), np.asarray(scores)
    if features.ndim != 2 or scores.shape != (len(features),):
        raise InputError("features and scores", "shapes (n, d) and (n,)", f"{features.shape} and {scores.shape}")
    if len(features) < 2:
        return np.empty((0, 4))
    import fastcluster
    from scipy.spatial.distance import pdist

    parts = pdist(features.astype(np.float64)), pdist(scores.astype(np.float64)[:, None])
    distance = sum(part / (part.std() or 1.0) for part in parts)
    return fastcluster.linkage(distance, "complete", preserve_input=False)
