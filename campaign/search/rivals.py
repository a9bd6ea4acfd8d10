"""Predictions that cannot both be correct masks of two objects: of such rivals one is asked about and delivered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ml_backend.masks.rle import areas
from ml_backend.predictions import Predictions

NEIGHBOURS = 0.02  # pairs that overlap by a smaller IoU are not looked at
COVERED = 0.8  # share of a mask's pixels inside another from which on they are rivals, as in `drop_duplicates`
BESIDE = 0.3  # IoU from which on another prediction competes for the same object


@dataclass(frozen=True)
class Overlaps:
    """Pairs of masks of one image and class that overlap.

    Rows `first` < `second` (m,), their `iou` (m,), and the share of each one's pixels that the other holds (m,).
    """

    first: np.ndarray
    second: np.ndarray
    iou: np.ndarray
    share_of_first: np.ndarray
    share_of_second: np.ndarray

    @classmethod
    def none(cls) -> Overlaps:
        """No pairs, of masks that lie in no image."""
        empty = np.zeros(0)
        return cls(empty.astype(np.int64), empty.astype(np.int64), empty, empty, empty)

    def rivals(self, iou: float, covered: float) -> tuple[np.ndarray, np.ndarray]:
        """The pairs (a, b) of which at most one may be delivered, rows.

        Their IoU is above `iou`, or one lies inside the other by `covered` of its pixels: in whatever order duplicates
        are looked for among the others, none is found.
        """
        chosen = (self.iou > iou) | (np.maximum(self.share_of_first, self.share_of_second) > covered)
        return self.first[chosen], self.second[chosen]


def overlaps_of(masks: Predictions) -> Overlaps:
    """All pairs of overlapping masks of the same image and class."""
    from pycocotools import mask as mask_util

    order = np.lexsort((masks.class_id, masks.image_id))
    image, class_id = masks.image_id[order], masks.class_id[order]
    cuts = np.flatnonzero((image[1:] != image[:-1]) | (class_id[1:] != class_id[:-1])) + 1
    cuts = np.concatenate([[0], cuts, [len(order)]])
    several = np.flatnonzero(np.diff(cuts) > 1)  # one mask alone overlaps nothing
    rles = masks.rles()
    area = areas(rles).astype(np.float64)
    parts: list[tuple[np.ndarray, ...]] = []
    for begin, end in zip(cuts[several].tolist(), cuts[several + 1].tolist(), strict=True):
        group = order[begin:end]
        own = [rles[row] for row in group]
        for start in range(0, len(group), 256):
            block = own[start : start + 256]
            # pycocotools compares boxes first, so most pairs cost next to nothing
            iou = np.atleast_2d(np.asarray(mask_util.iou(block, own, [0] * len(own))))
            i, j = np.nonzero(iou > NEIGHBOURS)
            later = group[i + start] < group[j]
            i, j = i[later], j[later]
            a, b, overlap = group[i + start], group[j], iou[i, j]
            common = overlap * (area[a] + area[b]) / (1 + overlap)
            parts.append((a, b, overlap, common / np.maximum(area[a], 1), common / np.maximum(area[b], 1)))
    if not parts:
        return Overlaps.none()
    first, second, iou, of_first, of_second = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((second, first))
    return Overlaps(first[order], second[order], iou[order], of_first[order], of_second[order])


def without_rivals(rank: np.ndarray, pairs: tuple[np.ndarray, np.ndarray], gone: np.ndarray) -> np.ndarray:
    """Which masks have no better rival, (n,) bool: a greedy choice, the highest `rank` (n,) first, rows break ties.

    `gone` (n,) bool are masks that are known to be wrong: they are not chosen and stand in nobody's way.
    """
    a, b = pairs
    kept = ~gone
    there = kept[a] & kept[b]
    a, b = a[there], b[there]
    ahead = (rank[a] > rank[b]) | ((rank[a] == rank[b]) & (a < b))
    better, worse = np.where(ahead, a, b), np.where(ahead, b, a)
    # All at once whose better rivals are all decided, instead of one after the other: there are millions of pairs, and
    # rivals of rivals of rivals are few.
    while len(better):
        waits = np.zeros(len(kept), bool)
        waits[worse] = True
        kept[worse[~waits[better]]] = False
        there = kept[better] & kept[worse]
        better, worse = better[there], worse[there]
    return kept
