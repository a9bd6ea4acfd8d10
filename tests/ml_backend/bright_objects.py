"""A detector that is right by construction: every bright spot is an object, red ones apples, green ones pears."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as mask_util
from scipy import ndimage

from ml_backend.masks.coco import ImageRecord
from ml_backend.masks.images import read_rgb
from ml_backend.predictions import Predictions

SPOTS = ((0, (10, 12, 30, 20)), (1, (50, 5, 24, 28)), (0, (40, 60, 16, 16)))


class BrightObjects:
    """Finds connected spots of pure red ("apple") and pure green ("pear"); takes `delay` seconds per image."""

    version = "bright-1"

    def __init__(self, delay: float = 0.0):
        self.classes = {0: "apple", 1: "pear"}
        self.delay = delay
        self.calls: list[int] = []

    def predict(self, images: Iterable[ImageRecord]) -> Iterator[Predictions]:
        for record in images:
            self.calls.append(record.id)
            time.sleep(self.delay)
            yield self._masks(record)

    def _masks(self, record: ImageRecord) -> Predictions:
        image = read_rgb(record.path)
        if image.shape[:2] == (13, 13):
            raise RuntimeError("a broken layer")
        rles, kinds = [], []
        for class_id in self.classes:
            parts, n = ndimage.label(image[..., class_id] > 200)
            for k in range(1, n + 1):
                rles.append(mask_util.encode(np.asfortranarray((parts == k).astype(np.uint8))))
                kinds.append(class_id)
        n = len(rles)
        counts = np.empty(n, object)
        counts[:] = [r["counts"] for r in rles]
        return Predictions(
            mask_id=np.arange(n),
            image_id=np.full(n, record.id),
            class_id=np.array(kinds, np.int32),
            box=np.array([mask_util.toBbox(r) for r in rles], np.float32).reshape(-1, 4),
            rle=counts,
            size=np.tile(np.array(image.shape[:2], np.int32), (n, 1)),
            confidence=np.linspace(0.9, 0.5, n) if n else np.zeros(0),
            predicted_iou=np.ones(n),
            features=np.zeros((n, 0)),
        )


class BrightModel:
    """The detector as the current model of a backend."""

    version = BrightObjects.version

    def __init__(self, delay: float = 0.0):
        self._detector = BrightObjects(delay)

    def detector(self) -> BrightObjects:
        return self._detector


def draw_spots(path: Path, spots=SPOTS, size: tuple[int, int] = (100, 80)) -> Path:
    """An image of (width, height) with spots (class, (x, y, width, height))."""
    picture = np.zeros((size[1], size[0], 3), np.uint8)
    for class_id, (x, y, w, h) in spots:
        picture[y : y + h, x : x + w, class_id] = 255
    Image.fromarray(picture).save(path)
    return path
