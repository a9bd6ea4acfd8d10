"""Training on whole images, as in the published schedule; imports nothing of detectron2."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ml_backend.detectors.pointrend.config import PointRendOptions, fit_edges
from ml_backend.detectors.shared.augmentation import CropSampler
from ml_backend.detectors.shared.records import Target
from ml_backend.learning.scenes import Scene
from ml_backend.masks.pasting import paste

_STRIDE = 32


class ImageSampler(CropSampler):
    """Batches of whole images, resized by their short side and flipped, as PointRend was trained when published."""

    options: PointRendOptions

    def batch(self, step: int) -> tuple[Tensor, list[Target]]:
        """Images (b, 3, h, w), padded to the largest, and their targets, whose masks are not padded."""
        rng = np.random.default_rng([self.options.seed, step])
        records = [*self.exhaustive, *self.incomplete]
        chosen = [records[i] for i in rng.choice(len(records), self.options.batch)]
        images, targets = zip(*(self._whole(self._scenes.of(record), rng) for record in chosen), strict=True)
        height, width = (-(-max(i.shape[n] for i in images) // _STRIDE) * _STRIDE for n in (1, 2))
        padded = [functional.pad(i, (0, width - i.shape[2], 0, height - i.shape[1])) for i in images]
        return torch.stack(padded), list(targets)

    def _whole(self, scene: Scene, rng: np.random.Generator) -> tuple[Tensor, Target]:
        options = self.options
        height, width = scene.pixels.shape[:2]
        zoom = fit_edges(height, width, int(rng.choice(options.short_edges)), options.long_edge)
        h, w = max(round(height * zoom), 1), max(round(width * zoom), 1)
        pixels = torch.from_numpy((scene.pixels.astype(np.float32) - scene.mean) / scene.deviation)
        image = functional.interpolate(
            pixels.permute(2, 0, 1)[None], size=(h, w), mode="bilinear", align_corners=False, antialias=True
        )[0]
        masks = np.zeros((len(scene.windows), h, w), np.uint8)
        boxes = np.zeros((len(scene.windows), 4), np.float32)
        for mask, box, (x, y, bitmap) in zip(masks, boxes, scene.windows, strict=True):
            box[:] = [
                x * w / width,
                y * h / height,
                (x + bitmap.shape[1]) * w / width,
                (y + bitmap.shape[0]) * h / height,
            ]
            window, left, top = paste(bitmap, box, h, w)
            mask[top : top + window.shape[0], left : left + window.shape[1]] = window
        if rng.random() < 0.5:
            image, masks = image.flip(2), masks[:, :, ::-1].copy()
            boxes = np.stack([w - boxes[:, 2], boxes[:, 1], w - boxes[:, 0], boxes[:, 3]], 1)
        labels = torch.from_numpy(scene.labels.copy())
        return image, Target(torch.from_numpy(boxes), labels, torch.from_numpy(masks), scene.exhaustive)
