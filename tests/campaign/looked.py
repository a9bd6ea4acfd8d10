"""A campaign whose dataset lacks known objects, and people who look for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as mask_util

from campaign.label_studio.drawing import DrawnAnnotation, DrawnTask
from campaign.pages import completeness
from campaign.records.dataset_masks import DatasetMasks
from campaign.settings import CampaignSettings
from campaign.store import Store
from ml_backend.masks.coco import Annotation, CocoDataset, ImageRecord
from ml_backend.predictions import Predictions

CLASSES = {1: "cell", 2: "dot"}
SIDE, STEP, EXTENT = 200, 40, 24
PER_IMAGE = (SIDE // STEP) ** 2


def place_of(number: int) -> tuple[int, int]:
    """Left and upper edge of an object of an image."""
    return 8 + STEP * (number % (SIDE // STEP)), 8 + STEP * (number // (SIDE // STEP))


def rle_of(number: int) -> dict:
    """The mask of an object of an image."""
    x, y = place_of(number)
    mask = np.zeros((SIDE, SIDE), np.uint8, order="F")
    mask[y : y + EXTENT, x : x + EXTENT] = 1
    return mask_util.encode(mask)


def class_of(number: int) -> int:
    """The class of an object: the first column is of the second class."""
    return 2 if number % (SIDE // STEP) == 0 else 1


def _predictions(images: list[ImageRecord], missing: dict[int, set[int]]) -> Predictions:
    rows = [(i.id, n) for i in images for n in range(PER_IMAGE) if n not in missing.get(i.id, set())]
    n, counts = len(rows), np.empty(len(rows), object)
    counts[:] = [rle_of(number)["counts"] for _, number in rows]
    return Predictions(
        np.arange(n), np.array([i for i, _ in rows]), np.array([class_of(k) for _, k in rows], np.int32),
        np.array([[*place_of(k), EXTENT, EXTENT] for _, k in rows], np.float32), counts, np.full((n, 2), SIDE),
        np.full(n, 0.9, np.float32), np.ones(n, np.float32), np.zeros((n, 4), np.float16),
    )  # fmt: skip


def looked_store(
    folder: Path, lacks: dict[int, set[int]], pool: int = 6, heldout: int = 4, label_studio: dict | None = None
) -> Store:
    """Round 1 is over. Pool image n, counted from 0, lacks the objects `lacks[n]`; held-out ones lack object 7."""
    folder.mkdir(parents=True)
    rng, data = np.random.default_rng(0), {}
    for split, count in (("heldout", heldout), ("pool", pool)):
        if not count:
            continue
        images = []
        for n in range(count):
            path = folder / f"{split}-{n}.png"
            Image.fromarray(rng.integers(0, 255, (SIDE, SIDE, 3), np.uint8)).save(path)
            images.append(ImageRecord(n + 1, path.name, SIDE, SIDE, path))
        data[split] = CocoDataset(images, CLASSES)
        if split == "heldout":
            data[split].annotations = [
                Annotation(1 + k + i.id * PER_IMAGE, i.id, class_of(k), rle_of(k))
                for i in images
                for k in range(PER_IMAGE)
            ]
    store = Store.create(folder / "c", CampaignSettings(name="t", label_studio=label_studio or {}), data)
    store.rounds.start(1, "verify")
    store.rounds.update(1, model_version="v1")
    images = store.images.records("pool")
    stored = store.masks.save_shard(
        1, "pool", 0, _predictions(images, {images[n].id: s for n, s in lacks.items()}), 1, 0.0
    )
    others = store.images.records("heldout")
    if others:
        store.masks.save_shard(1, "heldout", 0, _predictions(others, {i.id: {7} for i in others}), 1, 0.0)
    store.datasets.save(1, dataset(stored))
    store.rounds.end(1, {"masks": len(stored)}, follow=False)
    return store


def dataset(masks: Predictions) -> DatasetMasks:
    """These masks as they stand in the dataset."""
    n = len(masks)
    return DatasetMasks(
        masks.mask_id, masks.image_id, masks.class_id, masks.box, masks.rle, masks.size, masks.confidence,
        masks.predicted_iou, np.ones(n, np.int32), np.full(n, -1), np.zeros(n, np.int32), np.zeros(n, np.int32),
        np.full(n, "test", object), np.full(n, "v1", object), np.zeros(n, bool),
    )  # fmt: skip


def truth_file(store: Store, path: Path) -> Path:
    """A COCO file with all true objects of the pool and of the held-out images, by file name."""
    images = store.images.records()
    data = CocoDataset(images, CLASSES)
    data.annotations = [
        Annotation(1 + k + i.id * PER_IMAGE, i.id, class_of(k), rle_of(k)) for i in images for k in range(PER_IMAGE)
    ]
    data.save(path)
    return path


_numbers = iter(range(1, 10**6))


def annotation(place: dict, objects: list[int], choice: str = "complete", number: int | None = None) -> DrawnAnnotation:
    """What Label Studio tells where somebody clicked these objects of a page's image."""
    x0, y0, x1, y1 = place["window"]
    result: list[dict] = []
    for k in objects:
        x, y = (v + EXTENT / 2 for v in place_of(k))
        value = {"x": 100 * (x - x0) / (x1 - x0), "y": 100 * (y - y0) / (y1 - y0), "width": 0.5}
        result.append({"id": f"r{k}", "from_name": "missing", "type": "keypoint", "value": value})
        labels = value | {"labels": [CLASSES[class_of(k)]]}
        result.append({"id": f"r{k}", "from_name": "class", "type": "labels", "value": labels})
    result.append({"from_name": "verdict", "type": "choices", "value": {"choices": [choice]}})
    at = next(_numbers)
    stamp = f"2026-01-01T{at // 3600:02d}:{at // 60 % 60:02d}:{at % 60:02d}.000000Z"
    return DrawnAnnotation(number or 10**6 + at, 7, stamp, 12.0, False, result)


def tell(store: Store, page_key: str, *annotations: DrawnAnnotation) -> None:
    """Stores what the annotations of a page hold now."""
    store.drawings.add(completeness.complete_facts(store, [DrawnTask(1, page_key, list(annotations))]))


def objects_missing(store: Store, page) -> list[int]:
    """The objects of a page's image that it shows no mask of."""
    shown = {(c, rle["counts"]) for c, rle in completeness.shown_masks(store, page.place)}
    return [k for k in range(PER_IMAGE) if (class_of(k), rle_of(k)["counts"]) not in shown]


def look(store: Store) -> None:
    """Somebody careful clicks what is missing on every open page."""
    done = {d.page_key for d in store.drawings.standing()}
    for page in store.pages.rows(kind="complete"):
        if page.key not in done:
            tell(store, page.key, annotation(page.place, objects_missing(store, page)))
