"""Drawn images with known masks, bright disks and dark squares on noise, and a network that finds just these."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as mask_util
from scipy import ndimage

from ml_backend.detectors.shared.records import Detections
from ml_backend.learning.iou_head import resize_masks
from ml_backend.masks.coco import Annotation, CocoDataset, ImageRecord

CLASSES = {3: "disk", 7: "square"}


def draw(
    folder: Path, images: int, seed: int, side: int = 96, objects: int = 5, keep: int | None = None
) -> CocoDataset:
    """A data set of `images` drawn images in `folder`, no two objects of which touch.

    With `keep`, only the first few objects of each are annotated and the images are marked as not exhaustive.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side] + 0.5
    records, annotations = [], []
    for number in range(1, images + 1):
        pixels = rng.normal(110, 8, (side, side, 3))
        places: list[tuple[float, float, float]] = []
        drawn: list[Annotation] = []
        for _ in range(50 * objects):
            if len(drawn) == objects:
                break
            radius = rng.uniform(7, 13)
            x, y = rng.uniform(radius, side - radius, 2)
            class_id = int(rng.choice(list(CLASSES)))
            if any(np.hypot(x - a, y - b) < 1.2 * (radius + r) + 2 for a, b, r in places):
                continue
            places.append((x, y, radius))
            if class_id == 3:
                mask = (columns - x) ** 2 + (rows - y) ** 2 <= radius**2
            else:
                mask = (abs(columns - x) <= radius * 0.85) & (abs(rows - y) <= radius * 0.85)
            pixels[mask] += 70 if class_id == 3 else -70
            rle = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
            drawn.append(Annotation(len(annotations) + len(drawn) + 1, seed * 1000 + number, class_id, rle))
        annotations += drawn[:keep]
        name = f"{seed}-{number}.png"
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / name)
        records.append(ImageRecord(seed * 1000 + number, name, side, side, folder / name, keep is None))
    return CocoDataset(records, dict(CLASSES), annotations)


def detect_drawn(pixels: torch.Tensor, sizes: list[tuple[int, int]]) -> list[Detections]:
    """What a network would detect that is always right: connected parts that are bright, label 1, or dark, label 2.

    The larger of two parts has the higher confidence. At the sides of a tile it finds the part of an object that
    shows, as a network would.
    """
    return [_detect(part[:, :height, :width].mean(0)) for part, (height, width) in zip(pixels, sizes, strict=True)]


def _detect(grey: torch.Tensor) -> Detections:
    boxes, labels, areas, masks = [], [], [], [torch.zeros(0, 28, 28)]
    for label, mask in enumerate((grey > 1.2, grey < -1.2), 1):
        parts, _ = ndimage.label(mask.cpu().numpy())
        for number, (rows, columns) in enumerate(ndimage.find_objects(parts), 1):
            shape = torch.from_numpy(parts[rows, columns] == number)
            if shape.sum() >= 20:
                boxes.append([columns.start, rows.start, columns.stop, rows.stop])
                labels.append(label)
                areas.append(float(shape.sum()))
                masks.append(resize_masks(shape[None].float(), 28))
    order = np.argsort(-np.array(areas, float), kind="stable")
    n, device = len(order), grey.device
    confidence = torch.tensor(areas, device=device)[order] / grey.numel()
    return Detections(
        torch.tensor(boxes, dtype=torch.float32, device=device).reshape(-1, 4)[order],
        torch.tensor(labels, dtype=torch.long, device=device)[order],
        confidence * 0.5 + 0.5,
        torch.cat(masks).to(device)[order],
        torch.full((n,), 0.9, device=device),
        torch.ones(n, 4, 14, 14, device=device),
        torch.ones(n, 8, device=device),
        torch.ones(n, 8, device=device),
    )
