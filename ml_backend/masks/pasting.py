"""From mask probabilities over a box to the exact run lengths of the mask in its image.

Each mask is resampled inside its own box only, so cost and memory follow the boxes and not the image.
"""

from __future__ import annotations

import numpy as np
from pycocotools import mask as mask_util


def paste(probabilities: np.ndarray, box: np.ndarray, height: int, width: int) -> tuple[np.ndarray, int, int]:
    """The mask in its image: (window (h, w) bool, x0, y0), the window's corner in whole pixels.

    A pixel belongs to the mask where its probability is over 0.5, sampled bilinearly at the pixel's centre, and
    averaged over the pixel where the mask is finer than the pixels.

    Args:
        probabilities: (m, m) over the box.
        box: x0, y0, x1, y1 in pixels; may reach out of the image.
        height: of the image.
        width: of the image.
    """
    window, left, top = resampled(probabilities, box, height, width)
    return window > 0.5, left, top


def resampled(probabilities: np.ndarray, box: np.ndarray, height: int, width: int) -> tuple[np.ndarray, int, int]:
    """The probability of each pixel of the image in the box, (window (h, w) float32, x0, y0); otherwise as `paste`."""
    x0, y0, x1, y1 = (float(v) for v in box)
    left, columns = _samples(x0, x1, width, probabilities.shape[1])
    top, rows = _samples(y0, y1, height, probabilities.shape[0])
    return rows @ probabilities.astype(np.float32) @ columns.T, left, top


def _samples(low: float, high: float, limit: int, cells: int) -> tuple[int, np.ndarray]:
    """First pixel inside [low, high) and the (pixels, cells) weights of the mask's cells at each pixel's centre."""
    first = max(int(np.ceil(low - 0.5)), 0)
    last = min(int(np.ceil(high - 0.5)), limit)
    span = max(high - low, 1e-6)
    per_pixel = cells / span
    centres = (np.arange(first, max(last, first), dtype=np.float32) + 0.5 - low) * per_pixel
    # The share of each cell that a window of one pixel, or of one cell where that is larger, covers. For cells larger
    # than pixels that is bilinear interpolation.
    reach = max(1.0, per_pixel)
    cell = np.arange(cells, dtype=np.float32)
    upper = np.minimum(cell + 1, centres[:, None] + reach / 2)
    lower = np.maximum(cell, centres[:, None] - reach / 2)
    return first, (np.maximum(upper - lower, 0.0) / reach).astype(np.float32)


def window_rle(window: np.ndarray, x0: int, y0: int, height: int, width: int) -> bytes:
    """Counts of the COCO compressed RLE of a mask that is `window` at (x0, y0) and empty elsewhere.

    Equal to encoding the full image, without making it.
    """
    columns = np.zeros((window.shape[1], window.shape[0] + 2), np.int8)
    columns[:, 1:-1] = window.T
    step = np.diff(columns, axis=1)
    at_column, at_row = np.nonzero(step)
    places = (at_column + x0) * height + at_row + y0
    return edges_rle(places, height, width)


def edges_rle(places: np.ndarray, height: int, width: int) -> bytes:
    """Counts of the COCO compressed RLE of a mask from where it begins and ends along the columns, (2 * runs,)."""
    starts, ends = places[0::2], places[1::2]
    # Runs that touch, from the bottom of one column to the top of the next, are one run.
    apart = starts[1:] != ends[:-1]
    starts, ends = starts[np.r_[True, apart][: len(starts)]], ends[np.r_[apart, True][: len(ends)]]
    bounds = np.empty(2 * len(starts) + 2, np.int64)
    bounds[0], bounds[1:-1:2], bounds[2:-1:2], bounds[-1] = 0, starts, ends, height * width
    runs = np.diff(bounds)
    if len(runs) > 1 and runs[-1] == 0:
        runs = runs[:-1]
    return mask_util.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)["counts"]


def full_mask(window: np.ndarray, x0: int, y0: int, height: int, width: int) -> np.ndarray:
    """The mask as (height, width) bool."""
    full = np.zeros((height, width), bool)
    full[y0 : y0 + window.shape[0], x0 : x0 + window.shape[1]] = window
    return full
