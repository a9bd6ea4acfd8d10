"""Clicks and boxes as channels that a network sees."""

from __future__ import annotations

from enum import Enum

import numpy as np


class ClickEncoding(str, Enum):
    """How a click is drawn: a disc; a Gaussian; or how far away the nearest one is, up to a limit."""

    DISC = "disc"
    GAUSSIAN = "gaussian"
    DISTANCE = "distance"


# Of a Gaussian the deviation, and of distances the limit, in radii of the disc.
_DEVIATION, _LIMIT = 1.0, 8.0
_TOGETHER = 64


def nearest(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """How far the middle of each cell is from the nearest of points (n, 2) as x, y, (height, width) float32 cells."""
    best = np.full((height, width), np.inf, np.float32)
    rows, columns = np.arange(height, dtype=np.float32) + 0.5, np.arange(width, dtype=np.float32) + 0.5
    for start in range(0, len(points), _TOGETHER):
        x, y = np.asarray(points[start : start + _TOGETHER], np.float32).T
        squares = (rows[None, :, None] - y[:, None, None]) ** 2 + (columns[None, None, :] - x[:, None, None]) ** 2
        np.minimum(best, squares.min(0), out=best)
    return np.sqrt(best)


def drawn(points: np.ndarray, height: int, width: int, encoding: ClickEncoding, radius: float) -> np.ndarray:
    """Points (n, 2) as a channel (height, width) float32, 1 at a point and 0 far from all.

    >>> drawn(np.array([[1.5, 0.5]]), 1, 4, ClickEncoding.DISC, 1.0).tolist()
    [[0.5, 1.0, 0.5, 0.0]]
    """
    if not len(points):
        return np.zeros((height, width), np.float32)
    distance = nearest(points, height, width)
    if encoding is ClickEncoding.DISC:
        return np.clip(radius + 0.5 - distance, 0, 1)
    if encoding is ClickEncoding.GAUSSIAN:
        return np.exp(-0.5 * (distance / (_DEVIATION * radius)) ** 2)
    return np.clip(1 - distance / (_LIMIT * radius), 0, 1)


def box_channel(box: np.ndarray | None, height: int, width: int) -> np.ndarray:
    """The share of each cell that a box x0, y0, x1, y1 covers, (height, width) float32; 0 without one."""
    if box is None:
        return np.zeros((height, width), np.float32)
    x0, y0, x1, y1 = (float(v) for v in box)
    columns = np.clip(np.minimum(np.arange(width) + 1, x1) - np.maximum(np.arange(width), x0), 0, 1)
    rows = np.clip(np.minimum(np.arange(height) + 1, y1) - np.maximum(np.arange(height), y0), 0, 1)
    return np.outer(rows, columns).astype(np.float32)
