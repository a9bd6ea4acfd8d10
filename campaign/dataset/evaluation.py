"""How good a set of masks is against ground truth: one-to-one matches, precision, recall, SQ, boundary IoU, AP.

Within an image and class, exported and true masks are paired one to one, best IoU first, so that a duplicate counts
as wrong.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as mask_util

from campaign.dataset.mask_file import Aligned, MaskFile, align, scores_of
from ml_backend.errors import InputError
from ml_backend.learning.evaluation import mask_precision, one_to_one_pairs
from ml_backend.masks.coco import Annotation, CocoDataset
from ml_backend.masks.rle import decode_window
from ml_backend.predictions import Predictions

MATCHED = 0.5  # least IoU of a pair that counts towards SQ, as in panoptic quality
BOUNDARY = 0.02  # width of a boundary as a share of the image's diagonal (Cheng et al., Boundary IoU, 2021)


@dataclass(frozen=True)
class Matches:
    """What became of n masks in the pairing with m others.

    `partner` (n,) is the mask that each is paired with, -1 where none; `iou` (n,) float64 the IoU with it, 0 where
    none. `nearest` (n,) is the one of its image and class that it overlaps most, -1 where it overlaps none, and
    `overlap` (n,) the IoU with that.
    """

    partner: np.ndarray
    iou: np.ndarray
    nearest: np.ndarray
    overlap: np.ndarray

    @property
    def duplicate(self) -> np.ndarray:
        """Masks whose object a better one has taken, (n,) bool."""
        return (self.partner < 0) & (self.overlap >= MATCHED)


@dataclass(frozen=True)
class Figures:
    """What one class, or all, is worth.

    `sq`, `boundary_iou` and the average precisions are 0 to 1, None where there is nothing to take them over.
    """

    masks: int
    true_masks: int
    correct: int
    duplicates: int
    sq: float | None
    boundary_iou: float | None
    ap: float | None
    ap50: float | None
    ap75: float | None

    @property
    def precision(self) -> float | None:
        """Share of the masks that are correct."""
        return self.correct / self.masks if self.masks else None

    @property
    def recall(self) -> float | None:
        """Share of the true masks that have a correct one."""
        return self.correct / self.true_masks if self.true_masks else None

    def as_dict(self) -> dict[str, Any]:
        """For programs, `precision`, `recall` and `sq` first."""
        return {"precision": self.precision, "recall": self.recall} | {
            name: getattr(self, name)
            for name in ("sq", "boundary_iou", "ap", "ap50", "ap75", "masks", "true_masks", "correct", "duplicates")
        }


@dataclass(frozen=True)
class Evaluation:
    """An export against ground truth; `total` is over all classes, `classes` by name."""

    aligned: Aligned
    matches: Matches
    truth: list[Annotation]
    scores: np.ndarray | None
    k_iou: float
    total: Figures
    classes: dict[str, Figures]

    @property
    def images_without_truth(self) -> int:
        """How many images with masks the truth does not have."""
        return len({a.image_id for a in self.aligned.first} - self.aligned.shared)

    def as_dict(self) -> dict[str, Any]:
        """For programs: the figures of all classes at the top level, those of each under `classes`."""
        return self.total.as_dict() | {
            "k_iou": self.k_iou,
            "images": len(self.aligned.shared),
            "images_without_truth": self.images_without_truth,
            "classes": {name: figures.as_dict() for name, figures in self.classes.items()},
        }

    def worst(self, count: int) -> list[int]:
        """Exported masks that are not correct, the worst first: least IoU, then highest score."""
        wrong = np.flatnonzero(self.matches.iou < self.k_iou)
        score = np.zeros(len(self.matches.iou)) if self.scores is None else self.scores
        return wrong[np.lexsort((wrong, -score[wrong], self.matches.iou[wrong]))][:count].tolist()

    def missed(self, count: int) -> list[int]:
        """True masks without a partner, the largest first."""
        taken = set(self.matches.partner.tolist())
        free = [n for n in range(len(self.truth)) if n not in taken]
        return sorted(free, key=lambda n: (-int(mask_util.area(self.truth[n].rle)), n))[:count]


def evaluate(export: MaskFile, truth: MaskFile, k_iou: float = 0.75) -> Evaluation:
    """The masks of `export` against all of `truth`; those on images that `truth` lacks are wrong.

    Crowds of the truth count for AP alone, where masks on them are left out. AP is pycocotools' with the best 500
    masks of an image and class, ranked by score; None where a mask states no score. Raises InputError where no image is
    in both.
    """
    aligned = align(export, truth)
    if not aligned.shared:
        raise InputError(f"{export.path} and {truth.path}", "images that both have, by their file names", "none")
    true = [a for a in aligned.second if not a.iscrowd]
    matches = match_masks(aligned.first, true)
    scores = scores_of(export, aligned.first)
    boundary = _boundaries(aligned, true, matches)
    totals, per_class = _average_precisions(aligned, scores)
    of, of_true = (np.array([a.class_id for a in some], int) for some in (aligned.first, true))
    classes = {}
    for number, name in aligned.classes.items():
        own, own_true = of == number, of_true == number
        if own.any() or own_true.any():
            classes[name] = _figures(own, int(own_true.sum()), matches, boundary, k_iou, per_class.get(number))
    total = _figures(np.ones(len(of), bool), len(true), matches, boundary, k_iou, totals)
    return Evaluation(aligned, matches, true, scores, k_iou, total, classes)


def match_masks(masks: list[Annotation], others: list[Annotation]) -> Matches:
    """The pairing of masks with others of the same image and class, one to one, from an IoU of `MATCHED` on."""
    n = len(masks)
    partner, nearest = np.full(n, -1), np.full(n, -1)
    iou, overlap = np.zeros(n), np.zeros(n)
    there = _by_place(others)
    for place, members in _by_place(masks).items():
        near = there.get(place)
        if not near:
            continue
        table = iou_table([masks[i].rle for i in members], [others[i].rle for i in near])
        best = table.argmax(axis=1)
        for row, i in enumerate(members):
            overlap[i] = table[row, best[row]]
            nearest[i] = near[best[row]] if overlap[i] > 0 else -1
        for row, column in one_to_one_pairs(table, MATCHED):
            partner[members[row]], iou[members[row]] = near[column], table[row, column]
    return Matches(partner, iou, nearest, overlap)


def iou_table(masks: list[dict], others: list[dict]) -> np.ndarray:
    """IoU of each mask with each other, (n, m) float64."""
    return np.asarray(mask_util.iou(masks, others, [0] * len(others)), np.float64).reshape(len(masks), len(others))


def boundary_iou(mask: dict, other: dict, share: float = BOUNDARY) -> float:
    """IoU of the boundaries of two masks: of what lies within `share` of the image's diagonal of their contours.

    Cheng et al., *Boundary IoU: Improving Object-Centric Image Segmentation Evaluation*, section 3. The border of the
    image is a contour too.
    """
    import cv2

    height, width = (int(v) for v in mask["size"])
    reach = max(round(share * float(np.hypot(height, width))), 1)
    boxes = mask_util.toBbox([mask, other])
    x0, y0 = (int(v) - 1 for v in boxes[:, :2].min(axis=0))
    x1, y1 = (int(v) + 1 for v in (boxes[:, :2] + boxes[:, 2:]).max(axis=0))
    kernel = np.ones((3, 3), np.uint8)

    def boundary(rle: dict) -> np.ndarray:
        whole = decode_window(rle, x0, y0, x1, y1).astype(np.uint8)
        inner = cv2.erode(whole, kernel, iterations=reach, borderType=cv2.BORDER_CONSTANT, borderValue=0)
        return (whole - inner).astype(bool)

    ours, theirs = boundary(mask), boundary(other)
    union = int((ours | theirs).sum())
    return int((ours & theirs).sum()) / union if union else 0.0


def _by_place(masks: Iterable[Annotation]) -> dict[tuple[int, int], list[int]]:
    places: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number, mask in enumerate(masks):
        places[mask.image_id, mask.class_id].append(number)
    return places


def _boundaries(aligned: Aligned, truth: list[Annotation], matches: Matches) -> np.ndarray:
    """Boundary IoU of each mask with its partner, (n,); nan where it has none."""
    found = np.full(len(matches.partner), np.nan)
    for n in np.flatnonzero(matches.partner >= 0):
        found[n] = boundary_iou(aligned.first[n].rle, truth[matches.partner[n]].rle)
    return found


def _figures(
    own: np.ndarray, true_masks: int, matches: Matches, boundary: np.ndarray, k_iou: float,
    precision: tuple[float | None, float | None, float | None] | None,
) -> Figures:  # fmt: skip
    paired = own & (matches.partner >= 0)
    ap, ap50, ap75 = precision or (None, None, None)
    return Figures(
        masks=int(own.sum()),
        true_masks=true_masks,
        correct=int((matches.iou[paired] >= k_iou).sum()),
        duplicates=int((matches.duplicate & own).sum()),
        sq=float(matches.iou[paired].mean()) if paired.any() else None,
        boundary_iou=float(boundary[paired].mean()) if paired.any() else None,
        ap=ap,
        ap50=ap50,
        ap75=ap75,
    )


_Precision = tuple[float | None, float | None, float | None]


def _average_precisions(aligned: Aligned, scores: np.ndarray | None) -> tuple[_Precision | None, dict[int, _Precision]]:
    """AP, AP50 and AP75 over all classes and of each, None where there is no true mask; nothing without scores."""
    if scores is None and aligned.first:
        return None, {}
    masks = aligned.first
    rle = np.empty(len(masks), object)
    rle[:] = [a.rle["counts"] for a in masks]
    predictions = Predictions(
        mask_id=np.arange(len(masks)),
        image_id=[a.image_id for a in masks],  # type: ignore[arg-type]  # becomes an array
        class_id=[a.class_id for a in masks],  # type: ignore[arg-type]
        box=mask_util.toBbox([a.rle for a in masks]) if masks else np.zeros((0, 4)),
        rle=rle,
        size=np.array([a.rle["size"] for a in masks]).reshape(-1, 2),
        confidence=np.zeros(0) if scores is None else scores,
        predicted_iou=np.ones(len(masks)),
        features=np.zeros((len(masks), 0)),
    )
    truth = CocoDataset(
        aligned.images, aligned.classes,
        [Annotation(n, a.image_id, a.class_id, a.rle, a.iscrowd) for n, a in enumerate(aligned.second, 1)],
    )  # fmt: skip
    total, classes = mask_precision(predictions, truth)

    def plain(figures: Any) -> _Precision:
        return tuple(None if np.isnan(v) else float(v) for v in (figures.ap, figures.ap50, figures.ap75))  # type: ignore[return-value]

    return plain(total), {number: plain(figures) for number, figures in classes.items()}
