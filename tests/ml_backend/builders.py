"""Small records and data sets that several test modules start from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pycocotools import mask as mask_util

from ml_backend.masks.coco import Annotation, CocoDataset, ImageRecord
from ml_backend.predictions import Predictions


def some_predictions(n: int = 3, dim: int = 4, start: int = 0) -> Predictions:
    """`n` predictions of class 2 on image 1 with mask ids from `start` on and features of width `dim`."""
    rle = np.empty(n, object)
    rle[:] = [b"04" + bytes([48 + i]) for i in range(n)]
    return Predictions(
        np.arange(start, start + n), np.ones(n), np.full(n, 2), np.ones((n, 4)), rle, np.full((n, 2), 9),
        np.linspace(0.5, 1, n), np.full(n, 0.5), np.ones((n, dim)),
    )  # fmt: skip


def squares(*sides: int) -> CocoDataset:
    """A data set of one image of 400x400 pixels with a square of each of the given sides, all in its corner."""
    annotations = []
    for number, side in enumerate(sides, 1):
        mask = np.zeros((400, 400), np.uint8, order="F")
        mask[:side, :side] = 1
        annotations.append(Annotation(number, 1, 1, mask_util.encode(mask)))
    return CocoDataset([ImageRecord(1, "a.png", 400, 400, Path("a.png"))], {1: "square"}, annotations)
