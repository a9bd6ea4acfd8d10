"""Training crops: random place, scale, flips, turns and colours, the same for the same seed and step."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ml_backend.detectors.shared.options import DetectorOptions
from ml_backend.detectors.shared.records import Target
from ml_backend.errors import InputError
from ml_backend.masks.coco import Annotation, CocoDataset, ImageRecord
from ml_backend.masks.images import read_rgb
from ml_backend.masks.pasting import paste
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


def statistics(pixels: np.ndarray, standardise: bool) -> tuple[np.ndarray, float | np.ndarray]:
    """Mean (3,) and deviation that an image is normalised by: its own, or those of ImageNet."""
    if not standardise:
        return np.array([123.675, 116.28, 103.53], np.float32), np.array([58.395, 57.12, 57.375], np.float32)
    sample = pixels[:: max(pixels.shape[0] // 256, 1), :: max(pixels.shape[1] // 256, 1)].astype(np.float32)
    mean = sample.mean((0, 1))
    return mean, max(float(np.sqrt(((sample - mean) ** 2).mean())), 4.0)


def load_pixels(record: ImageRecord) -> np.ndarray:
    """The image's pixels. Raises InputError where its size is not the one its record states."""
    pixels = read_rgb(record.path)
    if pixels.shape[:2] != (record.height, record.width):
        raise InputError(record.path, f"{record.width}x{record.height} pixels", f"{pixels.shape[1]}x{pixels.shape[0]}")
    return pixels


class CropSampler:
    """Batches of random crops. Several threads may ask for batches; they share the decoded images.

    Args:
        data: images and annotations; crowd annotations are left out.
        classes: category ids in the order of the network's labels 1, 2, ….
        options: resolved options.
    """

    def __init__(self, data: CocoDataset, classes: list[int], options: DetectorOptions):
        self.options = options
        self.label = {class_id: i + 1 for i, class_id in enumerate(classes)}
        annotations = data.by_image()
        self.annotations: dict[int, list[Annotation]] = {
            i.id: [a for a in annotations.get(i.id, []) if not a.iscrowd] for i in data.images
        }
        self.exhaustive = [i for i in data.images if i.exhaustive]
        self.incomplete = [i for i in data.images if not i.exhaustive and self.annotations[i.id]]
        if not self.exhaustive and not self.incomplete:
            raise InputError("labelled set", "at least one image to learn from", "none")
        counts = np.zeros(len(classes) + 1)
        for rows in self.annotations.values():
            np.add.at(counts, [self.label[a.class_id] for a in rows], 1)
        self._class_weight = 1 / np.sqrt(np.maximum(counts, 1))
        self._scenes: OrderedDict[int, Scene] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._weights = {
            True: self._image_weights(self.exhaustive, lambda i: i.width * i.height),
            False: self._image_weights(self.incomplete, lambda i: len(self.annotations[i.id])),
        }

    @staticmethod
    def _image_weights(images: list[ImageRecord], size: Callable[[ImageRecord], float]) -> np.ndarray:
        """Larger images are drawn more often, but not in proportion: each is one more scene to learn."""
        weights = np.sqrt(np.array([size(i) for i in images], float))
        return weights / weights.sum() if len(weights) else weights

    def batch(self, step: int) -> tuple[Tensor, list[Target]]:
        """Crops (b, 3, crop, crop) and their targets for one step, whatever was asked for before."""
        rng = np.random.default_rng([self.options.seed, step])
        incomplete = 0
        if self.incomplete:
            share = self.options.incomplete_share if self.exhaustive else 1.0
            incomplete = int(np.floor(self.options.batch * share + rng.random()))
            incomplete = min(incomplete, self.options.batch)
        crops = []
        for slot in range(self.options.batch):
            exhaustive = slot >= incomplete
            images = self.exhaustive if exhaustive else self.incomplete
            record = images[rng.choice(len(images), p=self._weights[exhaustive])]
            crops.append(self._crop(self._scene(record), rng))
        return torch.stack([c[0] for c in crops]), [c[1] for c in crops]

    def _scene(self, record: ImageRecord) -> Scene:
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
        mean, deviation = statistics(pixels, self.options.standardise)
        windows = []
        for annotation in self.annotations[record.id]:
            x, y, w, h = (int(v) for v in _box(annotation))
            windows.append((x, y, decode_window(annotation.rle, x, y, x + w, y + h)))
        labels = np.array([self.label[a.class_id] for a in self.annotations[record.id]], np.int64)
        return Scene(pixels, mean, deviation, windows, labels, record.exhaustive)

    def _crop(self, scene: Scene, rng: np.random.Generator) -> tuple[Tensor, Target]:
        options, side = self.options, self.options.crop
        jitter = np.log(options.scale_jitter)
        zoom = options.scale * np.exp(rng.uniform(-jitter, jitter))
        stretch = np.exp(rng.uniform(-0.1, 0.1) if jitter else 0.0)
        w, h = (max(round(side / (zoom * f)), 8) for f in (stretch, 1 / stretch))
        x0, y0 = self._corner(scene, w, h, rng)
        image = self._image(scene, x0, y0, w, h)
        masks, boxes, labels = self._objects(scene, x0, y0, w, h)
        turn = rng.integers(2 if options.upright else 8)
        if turn & 1:
            image, masks = image.flip(2), masks[:, :, ::-1]
            boxes = np.stack([side - boxes[:, 2], boxes[:, 1], side - boxes[:, 0], boxes[:, 3]], 1)
        if turn & 2:
            image, masks = image.flip(1), masks[:, ::-1]
            boxes = np.stack([boxes[:, 0], side - boxes[:, 3], boxes[:, 2], side - boxes[:, 1]], 1)
        if turn & 4:
            image, masks, boxes = image.transpose(1, 2), masks.transpose(0, 2, 1), boxes[:, [1, 0, 3, 2]]
        target = Target(
            torch.from_numpy(np.ascontiguousarray(boxes, np.float32)),
            torch.from_numpy(labels),
            torch.from_numpy(np.ascontiguousarray(masks)),
            scene.exhaustive,
        )
        return self._colours(image, rng), target

    def _corner(self, scene: Scene, w: int, h: int, rng: np.random.Generator) -> tuple[int, int]:
        """Corner of the crop in the image: mostly around an object, rare classes more often, else anywhere."""
        height, width = scene.pixels.shape[:2]
        low = np.array([min(0, width - w), min(0, height - h)])
        high = np.array([max(0, width - w), max(0, height - h)])
        if scene.windows and (not scene.exhaustive or rng.random() < 0.7):
            weights = self._class_weight[scene.labels]
            x, y, bitmap = scene.windows[rng.choice(len(weights), p=weights / weights.sum())]
            middle = np.array([x + bitmap.shape[1] / 2, y + bitmap.shape[0] / 2])
            corner = middle - np.array([w, h]) * rng.uniform(0.15, 0.85, 2)
        else:
            corner = rng.uniform(low, high + 1)
        x0, y0 = np.clip(np.floor(corner), low, high).astype(int)
        return int(x0), int(y0)

    def _image(self, scene: Scene, x0: int, y0: int, w: int, h: int) -> Tensor:
        height, width = scene.pixels.shape[:2]
        left, top, right, bottom = max(x0, 0), max(y0, 0), min(x0 + w, width), min(y0 + h, height)
        part = (scene.pixels[top:bottom, left:right].astype(np.float32) - scene.mean) / scene.deviation
        if part.shape[:2] != (h, w):
            whole = np.zeros((h, w, 3), np.float32)
            whole[top - y0 : bottom - y0, left - x0 : right - x0] = part
            part = whole
        side = self.options.crop
        return functional.interpolate(
            torch.from_numpy(part).permute(2, 0, 1)[None],
            size=(side, side),
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )[0]

    def _objects(self, scene: Scene, x0: int, y0: int, w: int, h: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Masks (n, side, side) uint8, boxes (n, 4) and labels (n,) of the objects that show in the crop."""
        side = self.options.crop
        zoom_x, zoom_y = side / w, side / h
        masks, boxes, labels = [], [], []
        for (x, y, bitmap), label in zip(scene.windows, scene.labels, strict=True):
            bh, bw = bitmap.shape
            if x + bw <= x0 or y + bh <= y0 or x >= x0 + w or y >= y0 + h:
                continue
            box = np.array([x - x0, y - y0, x - x0 + bw, y - y0 + bh]) * [zoom_x, zoom_y, zoom_x, zoom_y]
            window, left, top = paste(bitmap, box, side, side)
            seen = int(window.sum())
            if seen < max(6, 0.05 * bitmap.sum() * zoom_x * zoom_y):
                continue
            rows, columns = np.flatnonzero(window.any(1)), np.flatnonzero(window.any(0))
            mask = np.zeros((side, side), np.uint8)
            mask[top : top + window.shape[0], left : left + window.shape[1]] = window
            masks.append(mask)
            boxes.append([left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1])
            labels.append(label)
        if not masks:
            return np.zeros((0, side, side), np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
        return np.stack(masks), np.array(boxes, np.float32), np.array(labels, np.int64)

    def _colours(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        strength = self.options.colour_jitter
        if strength == 0:
            return image
        contrast = float(np.exp(rng.normal(0, strength * 0.6)))
        shift = rng.normal(0, strength * 0.5) + rng.normal(0, strength * 0.15, 3)
        gains = contrast * np.exp(rng.normal(0, strength * 0.15, 3))
        image = image * torch.tensor(gains, dtype=torch.float32)[:, None, None]
        image = image + torch.tensor(shift, dtype=torch.float32)[:, None, None]
        if rng.random() < 0.3:
            noise = np.random.Generator(np.random.SFC64(int(rng.integers(2**31)))).standard_normal(
                image.shape, np.float32
            )
            image = image + torch.from_numpy(noise) * float(rng.uniform(0, 0.25 * strength))
        return image


def _box(annotation: Annotation) -> np.ndarray:
    from pycocotools import mask as mask_util

    return mask_util.toBbox(annotation.rle)
