"""Images cut into parts that a person can look through, and the order in which parts are drawn."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import numpy as np

from campaign.search.sampling import draw_keys
from ml_backend.masks.coco import ImageRecord

EVEN = 4.0  # times the mean number of masks, that every part counts beside its own
SIDE = 1024  # pixels; on more, small objects cannot be seen
_WINDOW = ("x0", "y0", "x1", "y1")
PARTS = np.dtype([("image_id", np.int64), *((name, np.int32) for name in _WINDOW), ("weight", np.float64)])


def cut(images: Iterable[ImageRecord], side: int = SIDE) -> np.ndarray:
    """Parts of at most `side` pixels each way, equal ones in each image, row by row; (n,) of `PARTS`, weight 1."""
    rows = []
    for image in images:
        across, down = (-(-extent // side) for extent in (image.width, image.height))
        xs = np.linspace(0, image.width, across + 1).round().astype(int).tolist()
        ys = np.linspace(0, image.height, down + 1).round().astype(int).tolist()
        rows += [(image.id, x0, y0, x1, y1, 1.0) for y0, y1 in pairwise(ys) for x0, x1 in pairwise(xs)]
    return np.array(rows, PARTS)


def part_of(parts: np.ndarray, image_id: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The number of the part in which the middle of each box lies, (n,) int64; -1 where the image has none.

    `parts` are those that `cut` made, in its order; `box` (n, 4) is x, y, width, height in pixels.
    """
    found = np.full(len(image_id), -1, np.int64)
    if not len(parts) or not len(image_id):
        return found
    x, y = box[:, 0] + box[:, 2] / 2, box[:, 1] + box[:, 3] / 2
    order = np.argsort(parts["image_id"], kind="stable")
    ids = parts["image_id"][order]
    first, end = np.searchsorted(ids, image_id, "left"), np.searchsorted(ids, image_id, "right")
    for step in range(int((end - first).max(initial=0))):
        rows = np.flatnonzero((first + step < end) & (found < 0))
        number = order[first[rows] + step]
        part = parts[number]
        inside = (x[rows] >= part["x0"]) & (x[rows] < part["x1"]) & (y[rows] >= part["y0"]) & (y[rows] < part["y1"])
        found[rows[inside]] = number[inside]
    return found


def weights(masks: np.ndarray) -> np.ndarray:
    """What each part counts in the draw, from the number of its masks, (n,) float64.

    A fifth of it is in proportion to the masks, since more is missing where there is more; the rest is the same for
    all, since a part in which everything is missing has no masks. In proportion to the masks alone bounds are useless
    where whole images are missing, and of equal weights they are looser wherever no image is.
    """
    return masks + EVEN * max(float(masks.mean()), 1.0)


def draw_order(weight: np.ndarray, seed: int, salt: int) -> np.ndarray:
    """The parts in the order in which they are drawn: each time one of those left, in proportion to its weight.

    Exponential clocks of a hashed number each (Efraimidis and Spirakis 2006), so that asking for more goes on in the
    same order.
    """
    keys = draw_keys(seed, salt, np.arange(len(weight)))
    uniform = (keys.astype(np.float64) + 0.5) / 2.0**64
    return np.argsort(-np.log(np.clip(uniform, 1e-18, 1 - 1e-16)) / weight, kind="stable")
