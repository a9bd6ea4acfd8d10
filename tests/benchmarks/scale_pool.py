"""Pools for `tests.benchmarks.scale`: COCO files over small pictures, and a detector that writes known masks.

A mask is correct where its confidence is above one half. Features say of what kind a mask is, and kinds are more or
less often correct. All follow from the id of the image, so that nothing has to be kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as mask_util

from ml_backend.detector import Progress
from ml_backend.files import write_whole
from ml_backend.masks.coco import CocoDataset, ImageRecord
from ml_backend.predictions import Predictions

SIDE, PLACE, WIDTH = 64, 16, 12  # pixels: of an image, of the raster of places in it, of a mask
PLACES = (SIDE // PLACE) ** 2
FEATURES = 32
KINDS = 50  # kinds of masks in a class
COARSE = 8  # pixels of a picture's blocks: no two pictures are the same, and files are small
LABELLED, HELDOUT = 20, 200  # images
DETECTOR = "known-masks"


@cache
def shapes() -> np.ndarray:
    """The run lengths of the mask in each place, (PLACES,) of bytes."""
    found: np.ndarray = np.empty(PLACES, object)
    for place in range(PLACES):
        mask = np.zeros((SIDE, SIDE), np.uint8, order="F")
        x, y = place % 4 * PLACE, place // 4 * PLACE
        mask[y : y + WIDTH, x : x + WIDTH] = 1
        found[place] = mask_util.encode(mask)["counts"]
    return found


# The first image of each split, as a campaign numbers them.
_FIRST = {"labelled": 1, "heldout": 1 + LABELLED, "pool": 1 + LABELLED + HELDOUT}


def known_masks(image_ids: np.ndarray, classes: int, each: float) -> Predictions:
    """The masks of these images, by image, best score first: `each` of them on average, at most `PLACES`."""
    parts = []
    for block in np.unique(image_ids // 64):  # drawn for 64 images together
        rng = np.random.default_rng((7, int(block)))
        counts = np.minimum(rng.poisson(each, 64), PLACES)
        image = np.repeat(block * 64 + np.arange(64), counts)
        n = len(image)
        place = np.argsort(rng.random((64, PLACES)), axis=1)[np.arange(PLACES) < counts[:, None]]
        class_id, kind = rng.integers(1, classes + 1, n), rng.integers(0, KINDS, n)
        quality = (kind + 0.5) / KINDS
        confidence = np.clip(quality + rng.normal(0, 0.15, n), 0.02, 0.98)
        features = rng.normal(0, 1, (n, FEATURES)) + np.log(quality / (1 - quality))[:, None] * _axis(class_id)
        order = np.lexsort((-confidence, image))
        order = order[np.isin(image[order], image_ids)]
        box = np.stack([place % 4 * PLACE, place // 4 * PLACE, np.full(n, WIDTH), np.full(n, WIDTH)], axis=1)
        m = len(order)
        parts.append(
            Predictions(
                np.arange(m), image[order], class_id[order], box[order], shapes()[place[order]],
                np.full((m, 2), SIDE), confidence[order], np.ones(m), features[order].astype(np.float16),
            )
        )  # fmt: skip
    return Predictions.concatenate(parts)


def _axis(class_id: np.ndarray) -> np.ndarray:
    """Along which the good kinds of a class lie, (n, FEATURES)."""
    return np.random.default_rng(3).normal(0, 0.6, (64, FEATURES))[class_id % 64]


@dataclass
class KnownMasks:
    """The detector: nothing is trained and no image is opened."""

    classes: dict[int, str]
    each: float
    version: str = "known-1"

    def predict(self, images: Iterable[ImageRecord]) -> Iterator[Predictions]:
        """The known masks of each image."""
        images = list(images)
        masks = known_masks(np.array([i.id for i in images]), len(self.classes), self.each)
        starts = np.searchsorted(masks.image_id, [i.id for i in images])
        ends = np.searchsorted(masks.image_id, [i.id for i in images], side="right")
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            yield masks.select(slice(start, end))

    @classmethod
    def load(cls, checkpoint: Path, **_options: Any) -> KnownMasks:
        """The detector of a file that `train` wrote."""
        content = json.loads(Path(checkpoint).read_text())
        return cls({int(k): v for k, v in content["classes"].items()}, content["each"])

    @classmethod
    def train(
        cls, data: CocoDataset, heldout: CocoDataset | None, output: Path, *, options: dict[str, Any],
        progress: Progress | None = None, start_from: Path | None = None,
    ) -> Path:  # fmt: skip
        """Writes down what the masks follow from."""
        target = Path(output) / "known.json"
        content = {"classes": data.classes, "each": options["each"]}
        write_whole(target, lambda p: p.write_text(json.dumps(content)))
        return target


def register(folder: Path) -> None:
    """Makes `folder` one that, on $PYTHONPATH, brings the detector's entry point."""
    about = folder / "known_masks-1.dist-info"
    about.mkdir(parents=True, exist_ok=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: known-masks\nVersion: 1\n")
    group = "campaign.detectors"
    (about / "entry_points.txt").write_text(f"[{group}]\n{DETECTOR} = tests.benchmarks.scale_pool:KnownMasks\n")


def write_files(folder: Path, images: int, masks: int, classes: int) -> None:
    """`images/`, `labelled.json`, `heldout.json` and `pool.json`, as `campaign init --data` takes them.

    The true masks of held-out images are those known masks that are correct, under the ids that a new campaign gives.
    """
    pictures = folder / "images"
    pictures.mkdir(parents=True)
    categories = [{"id": c, "name": f"class {c}"} for c in range(1, classes + 1)]
    # A campaign numbers its images in this order.
    first, rng = 1, np.random.default_rng(11)
    for split, count in (("labelled", LABELLED), ("heldout", HELDOUT), ("pool", images)):
        with (folder / f"{split}.json").open("w") as file:
            file.write(f'{{"categories": {json.dumps(categories)}, "images": [\n')
            for n in range(count):
                name = _name(split, n)
                blocks = rng.integers(0, 256, (SIDE // COARSE, SIDE // COARSE, 3), np.uint8)
                Image.fromarray(blocks.repeat(COARSE, 0).repeat(COARSE, 1)).save(pictures / name)
                row = {"id": n + 1, "file_name": name, "width": SIDE, "height": SIDE}
                file.write(json.dumps(row) + (",\n" if n + 1 < count else ""))
            rows = [] if split == "pool" else _truth(first, count, classes, masks / images)
            file.write(f'],\n"annotations": {json.dumps(rows)}}}\n')
        first += count


def _name(split: str, number: int) -> str:
    return f"{split}-{number:07d}.png"


def _truth(first: int, count: int, classes: int, each: float) -> list[dict]:
    masks = known_masks(np.arange(first, first + count), classes, each)
    masks = masks.select(is_correct(masks))
    return [
        {
            "id": n + 1, "image_id": image - first + 1, "category_id": class_id,
            "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()}, "area": WIDTH**2,
            "bbox": box, "iscrowd": 0,
        }
        for n, (image, class_id, rle, box) in enumerate(
            zip(masks.image_id.tolist(), masks.class_id.tolist(), masks.rles(), masks.box.tolist(), strict=True)
        )
    ]  # fmt: skip


def is_correct(masks: Predictions) -> np.ndarray:
    """Which of these masks are correct, (n,) bool."""
    return masks.confidence > 0.5


def write_results(path: Path, images: int, classes: int, each: float) -> None:
    """The known masks as a COCO results file, with their features; as JSON lines where the name ends in .jsonl."""
    lines = path.suffix == ".jsonl"
    last = LABELLED + images + HELDOUT
    with path.open("w") as file:
        file.write("" if lines else "[")
        is_first = True
        for start in range(1, last + 1, 4096):
            masks = known_masks(np.arange(start, min(start + 4096, last + 1)), classes, each)
            for image, class_id, rle, score, features in zip(
                masks.image_id.tolist(), masks.class_id.tolist(), masks.rles(), masks.score.tolist(),
                np.round(masks.features.astype(float), 3).tolist(), strict=True,
            ):  # fmt: skip
                split, first = next((s, f) for s, f in reversed(_FIRST.items()) if f <= image)
                row = {
                    "image_id": image - first + 1, "file_name": _name(split, image - first),
                    "category_id": class_id, "score": round(score, 5), "features": features,
                    "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
                }  # fmt: skip
                file.write(("" if is_first or lines else ",\n") + json.dumps(row) + ("\n" if lines else ""))
                is_first = False
        file.write("" if lines else "]")
