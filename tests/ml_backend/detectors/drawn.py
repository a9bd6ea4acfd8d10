"""Drawn images with known masks: bright disks and dark squares on noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as mask_util

from ml_backend.masks.coco import Annotation, CocoDataset, ImageRecord

CLASSES = {3: "disk", 7: "square"}


def draw(folder: Path, images: int, seed: int, side: int = 96, objects: int = 5, keep: int | None = None):
    """A data set of `images` drawn images in `folder`; with `keep`, only the first few objects of each are annotated
    and the images are marked as not exhaustive."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side] + 0.5
    records, annotations = [], []
    for number in range(1, images + 1):
        pixels = rng.normal(110, 8, (side, side, 3))
        taken = np.zeros((side, side), bool)
        found: list[Annotation] = []
        for _ in range(200):
            if len(found) == objects:
                break
            radius = rng.uniform(7, 13)
            x, y = rng.uniform(radius, side - radius, 2)
            class_id = int(rng.choice(list(CLASSES)))
            if class_id == 3:
                mask = (columns - x) ** 2 + (rows - y) ** 2 <= radius**2
            else:
                mask = (abs(columns - x) <= radius * 0.85) & (abs(rows - y) <= radius * 0.85)
            if (mask & taken).any():
                continue
            taken |= mask
            pixels[mask] += 70 if class_id == 3 else -70
            rle = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
            found.append(Annotation(len(annotations) + len(found) + 1, seed * 1000 + number, class_id, rle))
        annotations += found[:keep]
        name = f"{seed}-{number}.png"
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / name)
        records.append(ImageRecord(seed * 1000 + number, name, side, side, folder / name, keep is None))
    return CocoDataset(records, dict(CLASSES), annotations)
