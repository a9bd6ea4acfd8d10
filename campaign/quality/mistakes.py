"""Why a mask is wrong, from the true masks of its image: what a beginner is told of it. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as mask_util

from campaign.records.names import Name

TOUCHES = 0.1  # IoU from which a mask is one of that object at all
HOLDS = 0.5  # share of an object from which a mask holds it
LOPSIDED = 2.0  # times that what is too much outweighs what is missing, or the other way, to be named alone


class Fault(Name):
    """What is wrong with a mask."""

    TOO_LARGE = "too large"
    TOO_SMALL = "too small"
    BESIDE = "beside"  # some of the object is missing, and some is not of it
    SEVERAL = "several"
    OTHER_CLASS = "other class"
    NOTHING = "nothing"


@dataclass(frozen=True)
class Mistake:
    """A fault with its measure.

    missing: share of the object that the mask leaves out. extra: share of the mask that lies beside the object. number:
    of the objects that it holds. class_id: the class of the object that it shows.
    """

    fault: Fault
    missing: float = 0.0
    extra: float = 0.0
    number: int = 1
    class_id: int | None = None


def mistake(rle: dict, class_id: int, truths: Sequence[tuple[int, dict]], k_iou: float) -> Mistake | None:
    """What is wrong with the mask `rle` of this class; None where it is correct.

    `truths` are the true masks of its image, (class, RLE {"size", "counts"}) each; it is correct where it shares
    `k_iou` with one of its class.
    """
    if not truths:
        return Mistake(Fault.NOTHING)
    true = [mask for _, mask in truths]
    of_class = np.array([c == class_id for c, _ in truths])
    iou = np.asarray(mask_util.iou([rle], true, [0] * len(true)))[0]
    # With `iscrowd` it is the share of the first mask that lies in the second.
    inside = np.asarray(mask_util.iou([rle], true, [1] * len(true)))[0]
    held = np.asarray(mask_util.iou(true, [rle], [1]))[:, 0]
    own = np.where(of_class, iou, 0.0)
    best, other = int(own.argmax()), int(np.where(of_class, 0.0, iou).argmax())
    if own[best] >= k_iou:
        return None
    if not of_class[other] and iou[other] >= max(k_iou, own[best]):
        return Mistake(Fault.OTHER_CLASS, class_id=truths[other][0])
    several = int((of_class & (held >= HOLDS)).sum())
    if several > 1:
        return Mistake(Fault.SEVERAL, number=several)
    if own[best] < TOUCHES:
        if not of_class[other] and iou[other] >= TOUCHES:
            return Mistake(Fault.OTHER_CLASS, class_id=truths[other][0])
        return Mistake(Fault.NOTHING)
    missing, extra = float(1 - held[best]), float(1 - inside[best])
    fault = Fault.BESIDE
    if extra >= LOPSIDED * missing:
        fault = Fault.TOO_LARGE
    elif missing >= LOPSIDED * extra:
        fault = Fault.TOO_SMALL
    return Mistake(fault, missing, extra)
