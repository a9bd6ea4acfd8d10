"""A free start: the pool's masks nearest to annotated-set masks that are known to be good, before anyone is asked.

On images with ground truth it is known which predictions are correct. Their nearest neighbours in feature space are a
first guess at correct masks of the pool (J. Hu, MIT MSc thesis, 2019).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ml_backend.errors import InputError

_CHUNK = 4096


@dataclass(frozen=True)
class Neighbours:
    """Pool rows by their `distance` (k,) to the nearest good mask, which is row `near` of the annotated set."""

    rows: np.ndarray
    near: np.ndarray
    distance: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)


def nearest_to_good(annotated: np.ndarray, correct: np.ndarray, pool: np.ndarray, most: int = 100) -> Neighbours:
    """The `most` masks of one class's pool that lie nearest to a correct mask of the annotated set.

    `annotated` (a, d) and `pool` (n, d) are features, `correct` (a,) bool. Left out are masks nearer to a wrong mask
    than to any correct one. Raises InputError where the shapes do not fit.
    """
    annotated, pool = np.asarray(annotated, np.float32), np.asarray(pool, np.float32)
    correct = np.asarray(correct, bool)
    fits = annotated.ndim == pool.ndim == 2 and annotated.shape[1] == pool.shape[1]
    if not fits or correct.shape != (len(annotated),):
        got = f"{annotated.shape}, {correct.shape} and {pool.shape}"
        raise InputError("annotated features, correctness and pool features", "shapes (a, d), (a,) and (n, d)", got)
    if not correct.any() or not len(pool):
        return Neighbours(np.zeros(0, int), np.zeros(0, int), np.zeros(0))
    norms = (annotated**2).sum(1)
    near, distance = np.empty(len(pool), int), np.empty(len(pool), np.float32)
    for start in range(0, len(pool), _CHUNK):
        part = pool[start : start + _CHUNK]
        square = norms - 2 * part @ annotated.T
        near[start : start + _CHUNK] = square.argmin(1)
        distance[start : start + _CHUNK] = square.min(1) + (part**2).sum(1)
    rows = np.flatnonzero(correct[near])
    rows = rows[np.argsort(distance[rows], kind="stable")[:most]]
    return Neighbours(rows, near[rows], np.sqrt(np.maximum(distance[rows], 0)))


def share_good(
    neighbours: Neighbours, pool_correct: np.ndarray, sizes: tuple[int, ...] = (10, 30, 100)
) -> dict[int, float]:
    """Share of correct masks among the first 10, 30, 100 neighbours, for those sizes that were found."""
    good = np.asarray(pool_correct, bool)[neighbours.rows]
    return {k: float(good[:k].mean()) for k in sizes if k <= len(good)}
