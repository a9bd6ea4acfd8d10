"""A detector of another package, learned in closed form: it finds the same on every machine and in no time.

And pictures that it can learn from.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as mask_util
from scipy import ndimage

from ml_backend.detector import Progress
from ml_backend.errors import InputError
from ml_backend.masks.coco import Annotation, CocoDataset, ImageRecord, decode, to_rle
from ml_backend.masks.images import read_rgb
from ml_backend.predictions import Predictions

CLASSES = {1: "disc", 2: "bar"}
LIMIT = 40.0  # furthest colour that is still of a class, in grey levels
LEAST = 60  # pixels of a mask


class Colours:
    """Regions of the mean colour of each class's masks; of every second one also its upper half, which is wrong.

    Attributes:
        version: a name of the learned colours.
        classes: category id to name.
    """

    def __init__(self, learned: dict[str, Any]):
        self.classes = {int(number): name for number, name in learned["classes"].items()}
        self.means = {int(number): np.array(mean) for number, mean in learned["means"].items()}
        self.version = "colours-" + "-".join(f"{value:.2f}" for mean in self.means.values() for value in mean)

    @classmethod
    def load(cls, checkpoint: Path, **options: Any) -> Colours:
        """The colours in a file. Raises InputError where there is none."""
        try:
            return cls(json.loads(Path(checkpoint).read_text()))
        except (OSError, ValueError, KeyError) as error:
            raise InputError(checkpoint, "learned colours", error) from None

    @classmethod
    def train(
        cls,
        data: CocoDataset,
        heldout: CocoDataset | None,
        output: Path,
        *,
        options: dict[str, Any],
        progress: Progress | None = None,
        start_from: Path | None = None,
    ) -> Path:
        """Learns the mean colour of each class, image by image; returns the checkpoint."""
        pixels: dict[int, list[np.ndarray]] = {number: [] for number in data.classes}
        masks = data.by_image()
        for done, image in enumerate(data.images, 1):
            picture = read_rgb(image.path)
            for annotation in masks.get(image.id, []):
                pixels[annotation.class_id].append(picture[decode(annotation.rle).astype(bool)])
            if progress:
                progress("train", done, len(data.images))
        means = {number: np.concatenate(parts).mean(0).tolist() for number, parts in pixels.items()}
        output.mkdir(parents=True, exist_ok=True)
        partial = output / "colours.tmp"
        partial.write_text(json.dumps({"classes": data.classes, "means": means}))
        return partial.replace(output / "colours.json")

    def predict(self, images: Iterable[ImageRecord]) -> Iterator[Predictions]:
        """One `Predictions` per image, in order."""
        for image in images:
            yield self._predict(image)

    def _predict(self, image: ImageRecord) -> Predictions:
        picture = ndimage.uniform_filter(read_rgb(image.path).astype(float), (3, 3, 0))
        rows: list[tuple[int, np.ndarray, bool]] = []
        for number, mean in self.means.items():
            regions, count = ndimage.label(np.linalg.norm(picture - mean, axis=2) < LIMIT)
            for region in range(1, count + 1):
                mask = regions == region
                if mask.sum() < LEAST:
                    continue
                rows.append((number, mask, True))
                if region % 2:
                    ys = np.flatnonzero(mask.any(1))
                    half = mask & (np.arange(len(mask)) < ys.mean())[:, None]
                    rows.append((number, half, False))
        rles = [mask_util.encode(np.asfortranarray(mask, np.uint8)) for _, mask, _ in rows]
        counts = np.empty(len(rows), object)
        counts[:] = [rle["counts"] for rle in rles]
        area = np.array([mask.sum() for _, mask, _ in rows], float)
        whole = np.array([whole for _, _, whole in rows], bool)
        return Predictions(
            mask_id=np.arange(len(rows)),
            image_id=np.full(len(rows), image.id),
            class_id=np.array([number for number, _, _ in rows], np.int32),
            box=np.asarray(mask_util.toBbox(rles), np.float32).reshape(-1, 4) if rles else np.zeros((0, 4), np.float32),
            rle=counts,
            size=np.tile([[image.height, image.width]], (len(rows), 1)),
            confidence=np.full(len(rows), 0.95, np.float32),
            # What is whole looks better by a little, so that clusters are mixed and the search must split them.
            predicted_iou=(np.where(whole, 0.6, 0.45) + area / 4000).astype(np.float32),
            features=np.stack([whole * 2.0, 2 * np.sin(area), 2 * np.cos(7 * area)], 1).astype(np.float16),
        )


def draw(folder: Path, sizes: dict[str, int]) -> Path:
    """Discs and bars of other brightness on noisy ground, with their masks, as COCO files."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:128, :128]
    for split, count in sizes.items():
        data = CocoDataset([], CLASSES)
        for number in range(1, count + 1):
            picture = rng.normal(60, 8, (128, 128, 3))
            taken = np.zeros((128, 128), bool)
            for _ in range(8):
                cx, cy, kind = *rng.uniform(18, 110, 2), int(rng.integers(1, 3))
                disc = (x - cx) ** 2 + (y - cy) ** 2 < rng.uniform(9, 13) ** 2
                bar = (abs(x - cx) < rng.uniform(13, 17)) & (abs(y - cy) < rng.uniform(6, 8))
                mask = disc if kind == 1 else bar
                if (mask & taken).any():
                    continue
                taken |= mask
                picture[mask] = rng.normal((200, 120, 80) if kind == 1 else (80, 130, 220), 8, (mask.sum(), 3))
                rle = to_rle({"size": [128, 128], "counts": _counts(mask)}, 128, 128)
                data.annotations.append(Annotation(len(data.annotations) + 1, number, kind, rle))
            name = f"{split}-{number}.png"
            Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / "images" / name)
            data.images.append(ImageRecord(number, name, 128, 128, folder / "images" / name))
        data.save(folder / f"{split}.json")
    return folder


def _counts(mask: np.ndarray) -> list[int]:
    flat = np.concatenate([[0], mask.flatten(order="F").astype(np.int8)])
    cuts = np.flatnonzero(np.diff(flat))
    return np.diff([0, *cuts, mask.size]).tolist()
