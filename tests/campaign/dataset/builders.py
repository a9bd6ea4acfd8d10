"""Sets of obtained masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pycocotools import mask as mask_util

from campaign.dataset.export import coco_file
from campaign.records.dataset_masks import DatasetMasks
from ml_backend.masks.coco import ImageRecord

IMAGES = [ImageRecord(7, "a.png", 30, 20, Path("a.png")), ImageRecord(3, "b.png", 12, 16, Path("b.png"))]
CLASSES = {5: "nut", 2: "bolt"}


def dataset(masks, image=7, class_id=5):
    n = len(masks)
    rles = [mask_util.encode(np.asfortranarray(m, np.uint8)) for m in masks]
    counts, rule, version = (np.empty(n, object) for _ in range(3))
    counts[:] = [r["counts"] for r in rles]
    rule[:], version[:] = "quality", "v1"
    return DatasetMasks(
        mask_id=(1 << 40) + np.arange(n),
        image_id=np.broadcast_to(image, n),
        class_id=np.broadcast_to(class_id, n),
        box=mask_util.toBbox(rles) if n else np.zeros((0, 4)),
        rle=counts,
        size=[m.shape for m in masks],
        confidence=np.full(n, 0.9),
        predicted_iou=np.full(n, 0.8),
        round=np.ones(n),
        cluster=np.full(n, 11),
        asked=np.full(n, 15),
        yes=np.full(n, 14),
        rule=rule,
        model_version=version,
        voted=np.arange(n) % 2 == 0,
    )


def write_coco(path, masks, images=IMAGES, categories=CLASSES, **said):
    """Writes masks, whole or in pieces, as a COCO file; returns how many there are."""
    if isinstance(categories, dict):
        categories = [{"id": i, "name": name} for i, name in categories.items()]
    with coco_file(path, categories, **said) as file:
        for i in images:
            image = i
            if isinstance(i, ImageRecord):
                image = {"id": i.id, "file_name": i.file_name, "width": i.width, "height": i.height}
            file.add_image(image)
        for piece in [masks] if isinstance(masks, DatasetMasks) else masks:
            file.add(piece)
    return file.written


def ring_in_two_parts():
    mask = np.zeros((20, 30), np.uint8)
    mask[2:14, 2:14] = 1
    mask[5:11, 5:11] = 0
    mask[16:19, 20:29] = 1
    return mask
