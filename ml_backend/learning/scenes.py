"""Training images with their objects, kept in memory up to a limit."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as mask_util

from ml_backend.learning.pictures import load_pixels, statistics
from ml_backend.masks.coco import Annotation, ImageRecord
from ml_backend.masks.rle import decode_window

_CACHE_BYTES = 2 << 30


@dataclass
class Scene:
    """One training image: pixels (h, w, 3) uint8 and its objects, each a bitmap at its corner."""

    pixels: np.ndarray
    mean: np.ndarray
    deviation: float | np.ndarray
    windows: list[tuple[int, int, np.ndarray]]
    labels: np.ndarray
    exhaustive: bool

    @property
    def bytes(self) -> int:
        """What it takes in memory."""
        return self.pixels.nbytes + sum(w[2].nbytes for w in self.windows)


class Scenes:
    """Scenes of images, decoded when they are asked for; several threads may ask.

    Args:
        annotations: objects by image id.
        label: the network's label of each category id.
        standardise: see `ml_backend.learning.pictures.statistics`.
    """

    def __init__(self, annotations: Mapping[int, Sequence[Annotation]], label: Mapping[int, int], standardise: bool):
        self._annotations, self._label, self._standardise = annotations, label, standardise
        self._scenes: OrderedDict[int, Scene] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def of(self, record: ImageRecord) -> Scene:
        """The scene of an image. Raises InputError where it cannot be read."""
        with self._lock:
            if record.id in self._scenes:
                self._scenes.move_to_end(record.id)
                return self._scenes[record.id]
        # Decoded without the lock: another thread may do the same, rarely, and only one of the two is kept.
        scene = self._decoded(record)
        with self._lock:
            if record.id not in self._scenes:
                self._scenes[record.id] = scene
                self._bytes += scene.bytes
                while self._bytes > _CACHE_BYTES and len(self._scenes) > 1:
                    self._bytes -= self._scenes.popitem(last=False)[1].bytes
        return scene

    def _decoded(self, record: ImageRecord) -> Scene:
        pixels = load_pixels(record)
        mean, deviation = statistics(pixels, self._standardise)
        windows = []
        for annotation in self._annotations[record.id]:
            x, y, w, h = (int(v) for v in mask_util.toBbox(annotation.rle))
            windows.append((x, y, decode_window(annotation.rle, x, y, x + w, y + h)))
        labels = np.array([self._label[a.class_id] for a in self._annotations[record.id]], np.int64)
        return Scene(pixels, mean, deviation, windows, labels, record.exhaustive)
