"""Masks as they are before they are corrected: a true one with the errors that detectors and first proposals make."""

from __future__ import annotations

import cv2
import numpy as np

# IoU with the truth between which a corrupted mask is wanted.
_WANTED = (0.35, 0.95)


def corrupted(truth: np.ndarray, others: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A mask that is wrong in places, (g, g) bool, mostly of IoU 0.35 to 0.95 with the truth.

    Args:
        truth: (g, g) bool.
        others: (g, g) bool, the other objects, parts of which it may take in.
        rng: of the errors.
    """
    side = max(float(np.sqrt(truth.sum())), 2.0)
    mask = truth
    for _ in range(8):
        mask = _wavy(truth, side, rng)
        if rng.random() < 0.3:
            mask = np.roll(mask, np.round(rng.normal(0, 0.1 * side, 2)).astype(int), (0, 1))
        if rng.random() < 0.25:
            mask = mask & ~_half(truth, rng)
        if rng.random() < 0.3:
            mask = mask | (others & _blob(truth, side, rng))
        elif rng.random() < 0.2:
            mask = mask | _blob(truth, side, rng)
        both, either = (mask & truth).sum(), (mask | truth).sum()
        if either and _WANTED[0] <= both / either <= _WANTED[1]:
            break
    return mask


def _wavy(truth: np.ndarray, side: float, rng: np.random.Generator) -> np.ndarray:
    """The outline moved in and out: a smooth random height is added to the distance from it."""
    inside = cv2.distanceTransform(truth.astype(np.uint8), cv2.DIST_L2, 3)
    outside = cv2.distanceTransform((~truth).astype(np.uint8), cv2.DIST_L2, 3)
    cells = max(int(truth.shape[0] / (side * rng.uniform(0.25, 0.8))) + 1, 2)
    coarse = rng.normal(0, 1, (cells, cells)).astype(np.float32)
    waves = cv2.resize(coarse, truth.shape[::-1], interpolation=cv2.INTER_CUBIC)
    depth = rng.normal(0, 0.08) * side + waves * side * rng.uniform(0.02, 0.15)
    return (inside - outside + depth) > 0


def _half(truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The cells beyond a line that cuts the object at some depth."""
    ys, xs = np.nonzero(truth)
    angle = rng.uniform(0, 2 * np.pi)
    along = np.cos(angle), np.sin(angle)
    rows, columns = np.mgrid[: truth.shape[0], : truth.shape[1]]
    if not len(xs):
        return np.zeros_like(truth)
    cut = np.quantile(xs * along[0] + ys * along[1], rng.uniform(0.55, 0.95))
    return columns * along[0] + rows * along[1] > cut


def _blob(truth: np.ndarray, side: float, rng: np.random.Generator) -> np.ndarray:
    """An ellipse at the object's edge."""
    ys, xs = np.nonzero(truth)
    blob = np.zeros(truth.shape, np.uint8)
    if len(xs):
        angle = rng.uniform(0, 2 * np.pi)
        away = rng.uniform(0.4, 0.9) * side
        middle = (int(xs.mean() + away * np.cos(angle)), int(ys.mean() + away * np.sin(angle)))
        axes = tuple(int(max(side * rng.uniform(0.15, 0.5), 1)) for _ in range(2))
        cv2.ellipse(blob, middle, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
    return blob > 0
