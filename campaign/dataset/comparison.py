"""What two sets of masks have in common, and what one has that the other lacks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as mask_util

from campaign.dataset.evaluation import MATCHED, iou_table, match_masks
from campaign.dataset.mask_file import Aligned, MaskFile, align
from ml_backend.masks.coco import Annotation

ALIKE = 0.9  # IoU below which a mask has moved
KINDS = ("gained", "lost", "moved", "renamed")


@dataclass(frozen=True)
class Comparison:
    """The masks of `first` against those of `second`, paired one to one within an image and class, best IoU first.

    `gained` are masks of the second without a partner, `lost` those of the first; of `moved` pairs the IoU is below
    what makes two alike. `renamed` are pairs of what is lost and gained that show one object in two classes. Each row
    of a pair is (number in the first, number in the second, IoU); numbers are those in `aligned`.
    """

    aligned: Aligned
    second: list[Annotation]
    gained: list[int]
    lost: list[int]
    moved: list[tuple[int, int, float]]
    renamed: list[tuple[int, int, float]]
    same: int
    mean_iou: float | None

    def as_dict(self) -> dict[str, Any]:
        """For programs: the counts of all classes at the top level, those of each under `classes`."""
        classes = self.aligned.classes
        rows = {name: self._counts(number) for number, name in classes.items()}
        return self._counts(None) | {"mean_iou": self.mean_iou, "classes": rows}

    def _counts(self, class_id: int | None) -> dict[str, int]:
        def own(masks: list[Annotation], number: int) -> bool:
            return class_id is None or masks[number].class_id == class_id

        first, second = self.aligned.first, self.second
        return {
            "first": sum(own(first, n) for n in range(len(first))),
            "second": sum(own(second, n) for n in range(len(second))),
            "gained": sum(own(second, n) for n in self.gained),
            "lost": sum(own(first, n) for n in self.lost),
            "moved": sum(own(first, a) for a, _, _ in self.moved),
            "renamed": sum(own(first, a) for a, _, _ in self.renamed),
        }


def compare(first: MaskFile, second: MaskFile, alike: float = ALIKE) -> Comparison:
    """What became of the masks of `first` in `second`. Raises InputError where images do not fit, see `align`."""
    aligned = align(first, second)
    theirs = [a for a in aligned.second if not a.iscrowd]
    matches = match_masks(aligned.first, theirs)
    paired = [(n, int(p), float(matches.iou[n])) for n, p in enumerate(matches.partner) if p >= 0]
    taken = {b for _, b, _ in paired}
    lost = [n for n, p in enumerate(matches.partner) if p < 0]
    gained = [n for n in range(len(theirs)) if n not in taken]
    renamed = _renamed(aligned.first, theirs, lost, gained)
    gone, come = {a for a, _, _ in renamed}, {b for _, b, _ in renamed}
    moved = sorted((pair for pair in paired if pair[2] < alike), key=lambda pair: pair[2])
    return Comparison(
        aligned,
        theirs,
        _largest(theirs, [n for n in gained if n not in come]),
        _largest(aligned.first, [n for n in lost if n not in gone]),
        moved,
        renamed,
        len(paired) - len(moved),
        float(np.mean([iou for _, _, iou in paired])) if paired else None,
    )


def _renamed(
    first: list[Annotation], second: list[Annotation], lost: list[int], gained: list[int]
) -> list[tuple[int, int, float]]:
    """Pairs of one image and two classes, one to one, from an IoU of `MATCHED` on."""
    from ml_backend.learning.evaluation import one_to_one_pairs

    places: dict[int, tuple[list[int], list[int]]] = {}
    for masks, numbers, side in ((first, lost, 0), (second, gained, 1)):
        for n in numbers:
            places.setdefault(masks[n].image_id, ([], []))[side].append(n)
    pairs = []
    for ours, theirs in places.values():
        if ours and theirs:
            table = iou_table([first[n].rle for n in ours], [second[n].rle for n in theirs])
            pairs += [(ours[r], theirs[c], float(table[r, c])) for r, c in one_to_one_pairs(table, MATCHED)]
    return pairs


def _largest(masks: list[Annotation], numbers: list[int]) -> list[int]:
    area: Mapping[int, int] = {n: int(mask_util.area(masks[n].rle)) for n in numbers}
    return sorted(numbers, key=lambda n: (-area[n], n))
