"""The demo's detector: its masks are drawn from the scenes that the demo draws, and nothing is learned.

A training takes minutes, and the demo is to show what comes after it. So this detector knows the true masks and spoils
them (`campaign.demo.mistakes`). Its error falls with the masks of a class that it was given to train on, by a rule that
is stated here, as a network's does: what it finds in the second round is better because of what was obtained in the
first. What the campaign sees of it is what it sees of any detector: masks, classes, scores and features. Scores are
drawn around what they claim, and features are taken from the picture and the mask alone, so both are worth something
and neither gives the truth away.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
from pycocotools import mask as mask_util

from campaign.demo.mistakes import Found, Thing, find
from campaign.demo.shapes import CLASSES, LOOKALIKES, SPLITS
from ml_backend.detector import Progress
from ml_backend.errors import InputError
from ml_backend.masks.coco import CocoDataset, ImageRecord, decode, write_json
from ml_backend.masks.images import read_rgb
from ml_backend.predictions import Predictions

# The error is 1 without a mask of a class, and halves for every 16-fold number of masks beyond so many.
FIRST_MASKS, EXPONENT = 25, 0.25
# Scores: the mean of a class's confidence, as a logit, for a mask of it and for another; and how well IoU is guessed.
LOGIT_OF_CLASS, LOGIT_OF_OTHER, LOGIT_SPREAD = 2.4, 0.4, 1.0
GUESS_SLOPE, GUESS_SPREAD = 0.8, 0.07
SIDE, PATCH, MARGIN = 14, 10, 0.15  # of the feature: pixels of its mask and of its picture, and how far around
FEATURE_WIDTH = SIDE * SIDE + 3 * PATCH * PATCH + 12


class DrawnMasks:
    """A detector of the demo's own scenes: see the module.

    Attributes:
        version: a name of what it was given to train on.
        classes: those of `campaign.demo.shapes`.
        error: of each class, 0 to 1.
    """

    LEARNS: ClassVar[bool] = False

    def __init__(self, scenes: Path, masks: dict[int, int], seed: int):
        self.classes = dict(CLASSES)
        self.error = {c: error_after(masks.get(c, 0)) for c in CLASSES}
        self.seed = seed
        content = f"{sorted(masks.items())} {seed}".encode()
        self.version = f"drawn-{zlib.crc32(content):08x}"
        self._things = _things(scenes)

    @classmethod
    def load(cls, checkpoint: str | Path, **_options: Any) -> DrawnMasks:
        """The detector of a checkpoint of `train`. Raises InputError where it is none or its scenes are away."""
        try:
            held = json.loads(Path(checkpoint).read_text())
            masks = {int(c): int(n) for c, n in held["masks"].items()}
            return cls(Path(held["scenes"]), masks, int(held["seed"]))
        except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(checkpoint, "a checkpoint of the detector drawn", type(error).__name__) from None

    @classmethod
    def check_options(cls, options: dict[str, Any]) -> None:
        """Raises InputError where no scenes are named, or they are none."""
        if not options.get("scenes"):
            raise InputError("detector option scenes", "a folder that `campaign demo` drew", "nothing")
        _things(Path(options["scenes"]))

    @classmethod
    def train(
        cls,
        data: CocoDataset,
        heldout: CocoDataset | None,
        output: str | Path,
        *,
        options: dict[str, Any] | None = None,
        progress: Progress | None = None,
        start_from: str | Path | None = None,
    ) -> Path:
        """Counts the masks of each class that it is given. Option `scenes`: the folder that the demo drew.

        Raises InputError where that is missing or another folder.
        """
        options = options or {}
        cls.check_options(options)
        scenes = Path(options["scenes"]).resolve()
        masks = Counter(a.class_id for a in data.annotations if not a.iscrowd)
        target = Path(output) / "drawn.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        held = {"scenes": str(scenes), "masks": {str(c): masks[c] for c in CLASSES}, "seed": options.get("seed", 0)}
        write_json(target, held)
        if progress:
            progress("train", 1, 1)
        return target

    def predict(self, images: Iterable[ImageRecord]) -> Iterator[Predictions]:
        """One `Predictions` per image, in order, best score first. Raises InputError for an image of no scene."""
        for image in images:
            things = self._things.get(Path(image.file_name).name)
            if things is None:
                raise InputError(image.path, "an image that the demo drew", "another")
            yield self._predict(image, things)

    def _predict(self, image: ImageRecord, lying: list[tuple[int, dict]]) -> Predictions:
        seed = [self.seed, zlib.crc32(Path(image.file_name).name.encode())]
        things = [Thing(class_id, decode(rle).astype(bool)) for class_id, rle in lying]
        found = list(find(things, list(CLASSES), self.error, seed))
        rles = [mask_util.encode(np.asfortranarray(f.mask, np.uint8)) for f in found]
        best = np.array(mask_util.iou(rles, [rle for _, rle in lying], [0] * len(lying))).reshape(len(found), -1)
        confidence, guess = scores(found, best.max(1, initial=0.0), np.random.default_rng([*seed, 1 << 20]))
        order = np.argsort(-confidence * guess, kind="stable")
        found, rles = [found[i] for i in order], [rles[i] for i in order]
        confidence, guess = confidence[order], guess[order]
        counts = np.empty(len(rles), object)
        counts[:] = [rle["counts"] for rle in rles]
        pixels = read_rgb(image.path)
        boxes = mask_util.toBbox(rles).reshape(-1, 4) if rles else np.zeros((0, 4))
        return Predictions(
            mask_id=np.arange(len(found)),
            image_id=np.full(len(found), image.id),
            class_id=np.array([f.class_id for f in found], np.int32),
            box=boxes.astype(np.float32),
            rle=counts,
            size=np.tile([[image.height, image.width]], (len(found), 1)),
            confidence=confidence.astype(np.float32),
            predicted_iou=guess.astype(np.float32),
            features=np.array(
                [feature(pixels, f.mask, box) for f, box in zip(found, boxes, strict=True)], np.float16
            ).reshape(len(found), FEATURE_WIDTH),
        )


def error_after(masks: int) -> float:
    """The error of a class, 0 to 1, after a training on so many of its masks.

    >>> error_after(0), round(error_after(15 * 25), 2)
    (1.0, 0.5)
    """
    return float((1 + masks / FIRST_MASKS) ** -EXPONENT)


def scores(found: list[Found], best: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(confidence, predicted IoU) of each mask found, (n,) each: drawn around what is true of it.

    `best` is the IoU of each with what it fits best, of whatever class or none, (n,).
    """
    logits = np.array([LOGIT_OF_CLASS if f.of_class else LOGIT_OF_OTHER for f in found])
    logits = logits + LOGIT_SPREAD * rng.standard_normal(len(found))
    guess = 0.17 + GUESS_SLOPE * best + GUESS_SPREAD * rng.standard_normal(len(found))
    return 1 / (1 + np.exp(-logits)), np.clip(guess, 0.02, 0.99)


def feature(pixels: np.ndarray, mask: np.ndarray, box: np.ndarray) -> np.ndarray:
    """What a mask looks like: its shape in its box, the picture there, and how sharp the picture is along its outline.

    `pixels` uint8 (h, w, 3), `mask` bool (h, w), `box` x, y, width, height; the feature float32 (`FEATURE_WIDTH`,).
    """
    x, y, w, h = (int(v) for v in box)
    around = int(MARGIN * max(w, h)) + 1
    window = np.s_[max(y - around, 0) : y + h + around, max(x - around, 0) : x + w + around]
    part, picture = mask[window].astype(np.float32), pixels[window].astype(np.float32) / 255
    shape = cv2.resize(part, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    inside = picture[part > 0]
    mean, deviation = inside.mean(0), inside.std(0) + 0.02
    patch = cv2.resize((picture - mean) / deviation, (PATCH, PATCH), interpolation=cv2.INTER_AREA)
    grey = cv2.GaussianBlur(picture.mean(2), (0, 0), 1.0)
    slope = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    kernel = np.ones((3, 3), np.uint8)
    edge = (cv2.dilate(part, kernel) - cv2.erode(part, kernel)) > 0
    sharp = np.array([slope[edge].mean(), np.quantile(slope[edge], 0.2), slope[part > 0].mean()]) / (
        slope.mean() + 0.02
    )
    size = np.array([np.log(len(inside)), np.log((w + 1) / (h + 1)), len(inside) / max(w * h, 1)])
    return np.concatenate([shape.ravel(), patch.ravel() / 3, mean, deviation, 2 * sharp, size]).astype(np.float32)


def _things(scenes: Path) -> dict[str, list[tuple[int, dict]]]:
    """(class id, RLE) of what lies in each image of the scenes, by file name; the class id of what has none is 0."""
    things: dict[str, list[tuple[int, dict]]] = defaultdict(list)
    for file in (*(f"{split}.json" for split in SPLITS), LOOKALIKES):
        data = CocoDataset.load(scenes / file, scenes / "images")
        grouped = data.by_image()
        for image in data.images:
            lying = grouped.get(image.id, [])
            things[image.file_name] += [(0 if file == LOOKALIKES else a.class_id, a.rle) for a in lying]
    return dict(things)
