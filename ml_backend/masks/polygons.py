"""Polygons to masks: clipped and bounded, because pycocotools walks every outline pixel by pixel in C."""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools import mask as mask_util

from ml_backend.masks.limits import MAX_OUTLINE, MAX_POINTS, MAX_POLYGONS, check_size, is_number
from ml_backend.masks.pasting import edges_rle
from ml_backend.masks.rle import run_lengths

# What lies further out than this is cut off; nearer to the image pycocotools does it, exactly as it always has.
_MARGIN = 1024.0
# A float still tells pixels apart here.
_FARTHEST = 1e12


def fill(polygons: Any, height: int, width: int) -> dict:
    """The pixels inside any of `polygons`, lists of x, y, x, y, …, as compressed RLE {"size", "counts"}.

    Raises ValueError where one has fewer than three points, is not finite, or is larger than a mask can be.
    """
    check_size(height, width)
    if not isinstance(polygons, list) or not 0 < len(polygons) <= MAX_POLYGONS:
        raise ValueError(f"polygons of at least three x, y points, at most {MAX_POLYGONS} of them")
    parts = [_clipped(_points(polygon), height, width) for polygon in polygons]
    if sum(map(len, parts)) > MAX_POINTS:
        raise ValueError(f"polygons of at most {MAX_POINTS} points")
    if sum(map(_outline, parts)) > MAX_OUTLINE:
        raise ValueError(f"polygons whose outlines are at most {MAX_OUTLINE} pixels long")
    flat = [part.ravel().tolist() for part in parts if len(part) >= 3]
    rles = mask_util.frPyObjects(flat, height, width) if flat else []
    return {"size": [height, width], "counts": _union([rle["counts"] for rle in rles], height, width)}


def _points(polygon: Any) -> np.ndarray:
    """The points of a polygon, (n, 2)."""
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        raise ValueError("polygons of at least three x, y points")
    if len(polygon) > 2 * MAX_POINTS:
        raise ValueError(f"polygons of at most {MAX_POINTS} points")
    if not all(map(is_number, polygon)):
        raise ValueError("polygons of finite numbers")
    points = np.array(polygon, float).reshape(-1, 2)
    if np.abs(points).max() > _FARTHEST:
        raise ValueError(f"polygons within {_FARTHEST:g} pixels")
    return points


def _clipped(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """The part of a polygon near the image (Sutherland and Hodgman, 1974); as it is where all of it is near."""
    for axis, size in ((0, width), (1, height)):
        points = _cut(points, axis, -_MARGIN, 1.0)
        points = _cut(points, axis, size + _MARGIN, -1.0)
    return points


def _cut(points: np.ndarray, axis: int, border: float, sign: float) -> np.ndarray:
    """The part of a polygon on one side of a border."""
    depth = sign * (points[:, axis] - border)
    inside = depth >= 0
    if inside.all():
        return points
    before, depth_before, inside_before = np.roll(points, 1, 0), np.roll(depth, 1), np.roll(inside, 1)
    crosses = inside != inside_before
    share = np.zeros(len(points))
    share[crosses] = depth_before[crosses] / (depth_before[crosses] - depth[crosses])
    crossing = before + share[:, None] * (points - before)
    crossing[:, axis] = border
    return np.stack((crossing, points), 1)[np.stack((crosses, inside), 1)]


def _outline(points: np.ndarray) -> float:
    """Pixels that the outline of a polygon passes."""
    return float(np.abs(points - np.roll(points, 1, 0)).max(1).sum()) + len(points) if len(points) else 0.0


def _union(masks: list[bytes], height: int, width: int) -> bytes:
    """Counts of the pixels in any of the masks. pycocotools goes through the union once for each mask."""
    if len(masks) == 1:
        return masks[0]
    bounds = [np.cumsum(run_lengths(counts)) for counts in masks]
    starts = np.concatenate([edges[0:-1:2] for edges in bounds] or [np.zeros(0, np.int64)])
    ends = np.concatenate([edges[1::2] for edges in bounds] or [np.zeros(0, np.int64)])
    order = np.argsort(starts, kind="stable")
    starts, ends = starts[order], np.maximum.accumulate(ends[order])
    if not len(starts):
        return edges_rle(starts, height, width)
    new = np.r_[True, starts[1:] > ends[:-1]]
    places = np.stack((starts[new], ends[np.r_[new[1:], True]]), 1).ravel()
    return edges_rle(places, height, width)
