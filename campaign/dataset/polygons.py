"""Masks as polygons: outlines along the edges of pixels, holes and parts kept, with what each loses in IoU.

A polygon of COCO or YOLO has no hole and no second part, so a ring is joined to the next by a line there and back,
which encloses nothing.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pycocotools import mask as mask_util

from ml_backend.masks.rle import decode_window

TOLERANCE = 1.0  # pixels that a simplified outline may run beside the mask's edge
SIMPLE = 0.97  # IoU with the mask below which a simplified outline is given up for the exact one
LEAST = 0.9  # IoU below which a polygon does not stand for the mask


@dataclass(frozen=True)
class Outline:
    """A mask's rings, each (k, 2) float64 of x and y in pixels, and their IoU with the mask."""

    rings: list[np.ndarray]
    iou: float


@dataclass
class PolygonLoss:
    """What polygons lost, mask by mask: `masks` of them, their IoU summed up, and the least.

    `refused` are the masks that no polygon stands for, with the IoU of the best: {mask id: IoU}.
    """

    masks: int = 0
    total: float = 0.0
    least: float = 1.0
    refused: dict[int, float] = field(default_factory=dict)

    def add(self, mask_id: int, outline: Outline) -> bool:
        """Takes a mask into account; returns whether its polygon stands for it."""
        if outline.iou < LEAST:
            self.refused[mask_id] = round(outline.iou, 4)
            return False
        self.masks += 1
        self.total += outline.iou
        self.least = min(self.least, outline.iou)
        return True

    def with_(self, other: PolygonLoss) -> PolygonLoss:
        """Both together."""
        least = min(self.least, other.least)
        return PolygonLoss(
            self.masks + other.masks, self.total + other.total, least, self.refused | other.refused
        )  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        """For programs; the IoUs are None where there is no polygon."""
        return {
            "polygons": self.masks,
            "mean_iou": round(self.total / self.masks, 6) if self.masks else None,
            "least_iou": round(self.least, 6) if self.masks else None,
            "no_polygon": [{"mask_id": i, "iou": iou} for i, iou in self.refused.items()],
        }


def outline(rle: dict[str, Any], single: bool = False) -> Outline:
    """The outline of a mask: a ring for each part, its holes joined to it; with `single` all in one ring.

    It is simplified where that costs next to nothing, see `SIMPLE`; otherwise it is exact to the pixel.
    """
    left, top, w, h = (int(v) for v in mask_util.toBbox(rle))
    exact = [ring + np.array([left, top]) for ring in trace(decode_window(rle, left, top, left + w, top + h))]
    best = Outline([], 0.0)
    for rings in ([_simplified(ring) for ring in exact], exact):
        whole = joined(rings, single)
        best = Outline(whole, _iou(whole, rle))
        if best.iou >= SIMPLE:
            break
    return best


def flat(rings: list[np.ndarray]) -> list[list[float]]:
    """Rings as COCO polygons, [[x, y, x, y, ...], ...]."""
    return [ring.reshape(-1).tolist() for ring in rings]


def trace(mask: np.ndarray) -> list[np.ndarray]:
    """The edges of a mask, (height, width) bool, as closed rings of corners, each (k, 2) float64.

    Outer rings go clockwise on the screen and holes the other way.
    """
    around = np.pad(mask.astype(np.int8), 1)
    stride = around.shape[1] + 1
    down, across = np.diff(around, axis=0), np.diff(around, axis=1)
    following: dict[int, list[int]] = defaultdict(list)
    # Mask below an edge: it goes right; above: left. Mask right of an edge: it goes up; left: down.
    for steps, value, start, end in (
        (down, 1, (1, 0), (1, 1)), (down, -1, (1, 1), (1, 0)),
        (across, 1, (1, 1), (0, 1)), (across, -1, (0, 1), (1, 1)),
    ):  # fmt: skip
        y, x = np.nonzero(steps == value)
        starts, ends = ((y + dy) * stride + x + dx for dy, dx in (start, end))
        for a, b in zip(starts.tolist(), ends.tolist(), strict=True):
            following[a].append(b)
    rings = []
    while following:
        first = at = next(iter(following))
        ring = []
        while True:
            ring.append(at)
            ends_here = following[at]
            after = ends_here.pop()
            if not ends_here:
                del following[at]
            at = after
            if at == first:
                break
        points = np.stack([np.array(ring) % stride - 1, np.array(ring) // stride - 1], axis=1).astype(np.float64)
        turns = (points - np.roll(points, 1, axis=0)) != (np.roll(points, -1, axis=0) - points)
        rings.append(points[turns.any(axis=1)])
    return rings


def signed_area(ring: np.ndarray) -> float:
    """The area of a ring, negative where it is a hole of `trace`."""
    x, y = ring[:, 0], ring[:, 1]
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def _simplified(ring: np.ndarray) -> np.ndarray:
    import cv2

    found = cv2.approxPolyDP(ring.astype(np.float32)[:, None], TOLERANCE, True)[:, 0].astype(np.float64)
    return found if len(found) >= 3 else ring


def joined(rings: list[np.ndarray], single: bool) -> list[np.ndarray]:
    """A ring for each part with its holes joined to it, or one of all."""
    import cv2

    outer = [ring for ring in rings if signed_area(ring) > 0]
    holes = [ring for ring in rings if signed_area(ring) <= 0]
    for hole in holes:
        around = [
            n
            for n, ring in enumerate(outer)
            if cv2.pointPolygonTest(ring.astype(np.float32)[:, None], tuple(hole.mean(axis=0).tolist()), False) >= 0
        ]
        if not outer:
            continue
        n = min(around or range(len(outer)), key=lambda n: abs(signed_area(outer[n])))
        outer[n] = _bridged(outer[n], hole)
    if single and len(outer) > 1:
        whole = outer[0]
        for ring in outer[1:]:
            whole = _bridged(whole, ring)
        return [whole]
    return outer


def _bridged(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Both rings as one, with a line there and back where they are nearest."""
    distance = ((first[:, None] - second[None]) ** 2).sum(axis=2)
    i, j = np.unravel_index(int(distance.argmin()), distance.shape)
    return np.concatenate([first[: i + 1], second[j:], second[: j + 1], first[i:]])


def _iou(rings: list[np.ndarray], rle: dict[str, Any]) -> float:
    if not rings:
        return 0.0
    height, width = (int(v) for v in rle["size"])
    drawn = mask_util.merge(mask_util.frPyObjects(flat(rings), height, width))
    return float(mask_util.iou([drawn], [rle], [0])[0, 0])
