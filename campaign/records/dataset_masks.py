"""The masks of the dataset, columnar, each with what it rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ml_backend.columns import MASK_COLUMNS, Column, MaskColumns

VOTED_RULE = "voted yes"  # the rule of a mask that only its own answer brought in
LIKELY_RULE = "likely correct"  # how the rule of a mask begins that nobody was asked about, chosen by its chance
EDITED_RULE = "edited"  # how the rule of a mask begins that an annotator corrected


def likely_rule(chance: float) -> str:
    """The rule of a mask that was chosen by its chance of being correct.

    >>> chance_of(likely_rule(0.934))
    0.934
    """
    return f"{LIKELY_RULE}, chance {chance:.3f}"


def chance_of(rule: str) -> float | None:
    """The chance in such a rule; None in any other."""
    return float(rule.rpartition(" ")[2]) if rule.startswith(LIKELY_RULE) else None


@dataclass(frozen=True)
class DatasetMasks(MaskColumns):
    """n masks of the dataset with what each rests on; row i of every column belongs to the same mask.

    | column | shape, type | meaning |
    | --- | --- | --- |
    | mask_id | (n,) int64 | unique in the campaign |
    | image_id | (n,) int64 | id of the image in its COCO file |
    | class_id | (n,) int32 | COCO category id |
    | box | (n, 4) float32 | x, y, width, height in pixels |
    | rle | (n,) object | counts of the COCO compressed RLE, bytes |
    | size | (n, 2) int32 | height and width of the image |
    | confidence | (n,) float32 | class confidence, 0 to 1 |
    | predicted_iou | (n,) float32 | predicted IoU with the true mask, 0 to 1 |
    | round | (n,) int32 | round that found it |
    | cluster | (n,) int64 | smallest decided cluster around it, in the tree of its round and class; -1: none |
    | asked | (n,) int32 | masks of that cluster with an answer when it was decided |
    | yes | (n,) int32 | how many of those were voted "yes" |
    | rule | (n,) object | str, the decision rule that accepted the cluster, or `VOTED_RULE` |
    | model_version | (n,) object | str, version of the detector |
    | voted | (n,) bool | True: a person said yes to this very mask; False: propagated |

    Raises ValueError when a column's shape does not fit the others.
    """

    mask_id: np.ndarray
    image_id: np.ndarray
    class_id: np.ndarray
    box: np.ndarray
    rle: np.ndarray
    size: np.ndarray
    confidence: np.ndarray
    predicted_iou: np.ndarray
    round: np.ndarray
    cluster: np.ndarray
    asked: np.ndarray
    yes: np.ndarray
    rule: np.ndarray
    model_version: np.ndarray
    voted: np.ndarray

    COLUMNS: ClassVar[Mapping[str, Column]] = {
        **MASK_COLUMNS,
        "round": (np.int32, ()),
        "cluster": (np.int64, ()),
        "asked": (np.int32, ()),
        "yes": (np.int32, ()),
        "rule": (object, ()),
        "model_version": (object, ()),
        "voted": (np.bool_, ()),
    }
