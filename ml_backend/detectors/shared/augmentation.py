"""Training crops: random place, scale, flips, turns and colours, the same for the same seed and step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ml_backend.detectors.shared.options import DetectorOptions
from ml_backend.detectors.shared.records import Target
from ml_backend.errors import InputError
from ml_backend.learning.pictures import jittered
from ml_backend.learning.scenes import Scene, Scenes
from ml_backend.masks.coco import Annotation, CocoDataset, ImageRecord
from ml_backend.masks.pasting import paste


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
        self._scenes = Scenes(self.annotations, self.label, options.standardise)
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
            crops.append(self._crop(self._scenes.of(record), rng))
        return torch.stack([c[0] for c in crops]), [c[1] for c in crops]

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
        return jittered(image, options.colour_jitter, rng), target

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
