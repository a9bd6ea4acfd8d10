"""Simulated annotators: where they click on the errors of a mask, and how exactly they draw a box. Pure functions.

After Benenson, Popov and Ferrari: clicks go to the middle of an error region or anywhere in it, with noise of 3 pixels,
and regions of under 10² pixels are let be; boxes have noisy corners. Middles are optimistic: real clicks lie spread
over the region, most of them away from its edge (RClicks), which is the default here.

The published lengths are pixels of objects that are mostly over 100 pixels long. Small objects are shown to annotators
larger, so lengths shrink with them: they hold at an object whose box has the geometric mean side of `reference` pixels,
and are proportionally less for smaller ones. So on an object of 20 pixels the noise is 0.6 pixels, and regions of under
4 pixels, 1 % of its box, are let be.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import cv2
import numpy as np

from ml_backend.interactive.segmenter import Click

Box = tuple[float, float, float, float]


class Place(str, Enum):
    """Where in an error region a click goes: its middle, anywhere, or spread but away from the edge as people's are."""

    CENTRE = "centre"
    RANDOM = "random"
    SPREAD = "spread"


@dataclass(frozen=True)
class Annotator:
    """How a simulated annotator clicks.

    place: in an error region. largest: the largest region is chosen, else one in proportion to area. noise: standard
    deviation of a click's place. least_region: regions with a smaller area than its square are let be. reference: the
    size of object for which these two lengths hold, in pixels. boundary: clicks go on the true outline where it is
    farthest from the mask's, instead of into regions.
    """

    place: Place = Place.SPREAD
    largest: bool = False
    noise: float = 3.0
    least_region: float = 10.0
    reference: float = 100.0
    boundary: bool = False

    def click(self, mask: np.ndarray, truth: np.ndarray, rng: np.random.Generator) -> tuple[Click, ...]:
        """The next click on a mask, both (height, width) bool; none where it has no error worth one.

        A click on the boundary is two clicks at one place, of both signs.
        """
        scale = self.scale(truth)
        regions = error_regions(mask, truth, (self.least_region * scale) ** 2)
        if not regions:
            return ()
        areas = np.array([r.area for r in regions], float)
        chosen = regions[int(areas.argmax()) if self.largest else int(rng.choice(len(regions), p=areas / areas.sum()))]
        if self.boundary:
            x, y = _farthest_on_boundary(chosen, mask, truth)
        else:
            x, y = _place(chosen, self.place, rng)
        height, width = truth.shape
        dx, dy = rng.normal(0, self.noise * scale, 2)
        x, y = float(np.clip(x + dx, 0, width - 1e-3)), float(np.clip(y + dy, 0, height - 1e-3))
        if self.boundary:
            return Click(x, y, True), Click(x, y, False)
        return (Click(x, y, chosen.positive),)

    def first(self, truth: np.ndarray, rng: np.random.Generator) -> tuple[Click, ...]:
        """The click that an object is begun with from nothing: a positive one."""
        inside = Annotator(self.place, True, self.noise, 0.0, self.reference)
        return inside.click(np.zeros_like(truth), truth, rng)

    def scale(self, truth: np.ndarray) -> float:
        """What the lengths are multiplied by for an object, at most 1."""
        ys, xs = np.flatnonzero(truth.any(1)), np.flatnonzero(truth.any(0))
        if not len(ys):
            return 1.0
        side = float(np.sqrt((ys[-1] - ys[0] + 1) * (xs[-1] - xs[0] + 1)))
        return min(side / self.reference, 1.0)


@dataclass(frozen=True)
class Region:
    """A connected part of an error: `window` (h, w) bool at (left, top); `positive` where the mask lacks it."""

    window: np.ndarray
    left: int
    top: int
    area: int
    positive: bool


def error_regions(mask: np.ndarray, truth: np.ndarray, least: float = 0.0) -> list[Region]:
    """The connected parts (over corners, too) of what a mask lacks and of what it has too much.

    Args:
        mask: (height, width) bool.
        truth: (height, width) bool.
        least: area, in pixels, below which parts are left out.
    """
    wrong = mask != truth
    rows, columns = np.flatnonzero(wrong.any(1)), np.flatnonzero(wrong.any(0))
    if not len(rows):
        return []
    top, left = int(rows[0]), int(columns[0])
    area = (slice(top, rows[-1] + 1), slice(left, columns[-1] + 1))
    regions = []
    for positive, errors in ((True, truth[area] & ~mask[area]), (False, mask[area] & ~truth[area])):
        count, labels, stats, _ = cv2.connectedComponentsWithStats(errors.astype(np.uint8), connectivity=8)
        for number in range(1, count):
            x, y, w, h, size = (int(v) for v in stats[number])
            if size >= max(least, 1):
                window = labels[y : y + h, x : x + w] == number
                regions.append(Region(window, left + x, top + y, size, positive))
    return regions


def _depth(region: Region) -> np.ndarray:
    """How far each cell of a region is from its edge, (h, w) float32."""
    return cv2.distanceTransform(np.pad(region.window.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]


def _place(region: Region, place: Place, rng: np.random.Generator) -> tuple[float, float]:
    weights = (region.window if place is Place.RANDOM else _depth(region)).astype(np.float64)
    if place is Place.CENTRE:
        at = int(weights.argmax())
    else:
        at = int(rng.choice(weights.size, p=weights.ravel() / weights.sum()))
    y, x = divmod(at, region.window.shape[1])
    return region.left + x + 0.5, region.top + y + 0.5


def _farthest_on_boundary(region: Region, mask: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """The place on the true outline, at the region, that is farthest from the mask's outline."""
    outline, own = _outline(truth), _outline(mask)
    height, width = region.window.shape
    near = np.zeros_like(truth)
    near[region.top : region.top + height, region.left : region.left + width] = region.window
    candidates = outline & (cv2.dilate(near.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0)
    if not candidates.any():
        candidates = outline
    if not own.any():
        own = ~truth
    distance = cv2.distanceTransform((~own).astype(np.uint8), cv2.DIST_L2, 5)
    y, x = divmod(int(np.where(candidates, distance, -1).argmax()), truth.shape[1])
    return x + 0.5, y + 0.5


def _outline(mask: np.ndarray) -> np.ndarray:
    padded = np.pad(mask, 1).astype(np.uint8)
    return mask & (cv2.erode(padded, np.ones((3, 3), np.uint8))[1:-1, 1:-1] == 0)


def box_overlap(a: Box, b: Box) -> float:
    """IoU of two boxes x0, y0, x1, y1."""
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(w, 0.0) * max(h, 0.0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return both / union if union > 0 else 0.0


def noisy_box(box: Box, rng: np.random.Generator, least: float = 0.7, deviation: float = 0.08) -> Box:
    """A box x0, y0, x1, y1 as an annotator draws it: corners with noise, drawn until its IoU with `box` is `least`.

    Args:
        box: the true one.
        rng: of the noise.
        least: IoU.
        deviation: of a corner, as a share of the box's side.
    """
    side = np.array([box[2] - box[0], box[3] - box[1]] * 2)
    for _ in range(1000):
        x0, y0, x1, y1 = (float(v) for v in np.array(box) + rng.normal(0, deviation, 4) * side)
        if x1 > x0 and y1 > y0 and box_overlap(box, (x0, y0, x1, y1)) >= least:
            return x0, y0, x1, y1
    return box
