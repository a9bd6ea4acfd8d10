"""A detector that is right by construction: every bright spot is an object, red ones apples, green ones pears."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
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
    """Finds connected spots of pure red ("apple") and pure green ("pear").

    `calls` holds the ids of the images, `before` is called ahead of each of them.
    """

    version = "bright-1"

    def __init__(self, before: Callable[[], object] = lambda: None):
        self.classes = {0: "apple", 1: "pear"}
        self.before = before
        self.calls: list[int] = []

    def predict(self, images: Iterable[ImageRecord]) -> Iterator[Predictions]:
        """The masks of each image, in order."""
        for record in images:
            self.calls.append(record.id)
            self.before()
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

    def __init__(self, before: Callable[[], object] = lambda: None):
        self._detector = BrightObjects(before)

    def detector(self) -> BrightObjects:
        """The one detector."""
        return self._detector


class Gate:
    """What a detector waits at, as `before`: `reached` says that it does, `open` lets it pass for good."""

    def __init__(self) -> None:
        self.reached, self._open = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        assert self._open.wait(60)

    def open(self) -> None:
        """Lets pass whoever waits and whoever comes."""
        self._open.set()


class Clock:
    """Stands in for the module `time` where only its monotonic clock is asked; goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        """Seconds."""
        return self.now

    perf_counter = monotonic

    def advance(self, seconds: float) -> None:
        """Lets time pass."""
        self.now += seconds


def draw_spots(path: Path, spots=SPOTS, size: tuple[int, int] = (100, 80)) -> Path:
    """An image of (width, height) with spots (class, (x, y, width, height))."""
    picture = np.zeros((size[1], size[0], 3), np.uint8)
    for class_id, (x, y, w, h) in spots:
        picture[y : y + h, x : x + w, class_id] = 255
    Image.fromarray(picture).save(path)
    return path
