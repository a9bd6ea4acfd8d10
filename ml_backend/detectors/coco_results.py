"""Predictions made by any other model, read from a COCO results file."""

from __future__ import annotations

import filecmp
import json
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pycocotools import mask as mask_util

from ml_backend.detector import Progress
from ml_backend.errors import InputError, brief
from ml_backend.files import write_whole
from ml_backend.learning.checkpoints import digest
from ml_backend.learning.features import feature_width, project
from ml_backend.learning.iou_head import resize_masks
from ml_backend.masks.coco import CocoDataset, ImageRecord, to_rle
from ml_backend.masks.limits import is_id, is_number
from ml_backend.masks.rle import decode_window
from ml_backend.predictions import Predictions

CLASSES = "classes.json"  # beside the results, which have no names
_SIDE = 56
# Features are kept in 16 bits.
_MOST = float(np.finfo(np.float16).max)


class CocoResults:
    """The results of another model as a detector.

    The file is a list of objects with `image_id`, `category_id`, `score` and `segmentation` (polygons or RLE), as
    pycocotools takes them. `predicted_iou` and `features` (a list of numbers, of one length throughout) are used
    where they are given; otherwise predicted IoU is 1 and the feature is the mask's own shape.

    Attributes:
        version: a name of the file's content.
        classes: category id to name; a result of another class is an error.
    """

    READS_IMAGES: ClassVar[bool] = False

    def __init__(self, path: str | Path, classes: dict[int, str] | None = None, feature_width: int = 512):
        path = Path(path)
        rows, content = _read(path)
        self.path, self.width = path, feature_width
        self.version = f"results-{digest(content)}"
        self.classes = dict(classes) if classes else {c: str(c) for c in sorted({r["category_id"] for r in rows})}
        lengths = {len(r["features"]) if r.get("features") is not None else 0 for r in rows}
        if len(lengths) > 1:
            raise InputError(f"{path} features", "one length in all results", f"lengths {sorted(lengths)[:5]}")
        self._given = max(lengths, default=0)
        self._rows: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for row in rows:
            if row["category_id"] not in self.classes:
                raise InputError(f"{path} category_id", f"one of {brief(sorted(self.classes))}", row["category_id"])
            self._rows[row["image_id"]].append(row)

    @classmethod
    def load(cls, checkpoint: str | Path, **options: Any) -> CocoResults:
        """The results in a file. Options: `classes` {id: name}, `feature_width`; raises InputError for bad results.

        Without `classes` they are those that `train` put beside the file, if any. Options that only a network has, such
        as `device`, change nothing.
        """
        known = {k: v for k, v in options.items() if k in ("classes", "feature_width") and v is not None}
        return cls(checkpoint, **{"classes": _classes_beside(Path(checkpoint))} | known)

    @classmethod
    def check_options(cls, options: dict[str, Any]) -> None:
        """Raises InputError where no results are named, or they are no results file."""
        if not options.get("results"):
            raise InputError("detector option results", "a COCO results file", "nothing")
        cls(options["results"])

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
        """There is nothing to train: copies the file that option `results` names into `output`.

        Without that option the file of the round before, `start_from`, is taken again.
        """
        source = (options or {}).get("results") or start_from
        if source is None:
            raise InputError("detector option results", "a COCO results file", "nothing")
        cls(source, data.classes)
        target = Path(output) / "results.json"
        names = json.dumps({str(number): name for number, name in data.classes.items()})
        write_whole(target.with_name(CLASSES), lambda partial: partial.write_text(names))
        if not (target.is_file() and filecmp.cmp(source, target, shallow=False)):
            write_whole(target, lambda partial: shutil.copyfile(source, partial))
        if progress:
            progress("train", 1, 1)
        return target

    def predict(self, images: Iterable[ImageRecord]) -> Iterator[Predictions]:
        """One `Predictions` per image, in order, best score first. Raises InputError for a malformed mask."""
        for image in images:
            yield self._predict(image)

    def _predict(self, image: ImageRecord) -> Predictions:
        rows = sorted(self._rows.get(image.id, []), key=lambda r: -r["score"] * r.get("predicted_iou", 1.0))
        rles = []
        for row in rows:
            try:
                rles.append(to_rle(row["segmentation"], image.height, image.width))
            except ValueError as error:
                raise InputError(f"{self.path} segmentation of image {image.id}", str(error), "another") from None
        solid = [i for i, rle in enumerate(rles) if mask_util.area(rle)]
        rows, rles = [rows[i] for i in solid], [rles[i] for i in solid]
        counts = np.empty(len(rles), object)
        counts[:] = [r["counts"] for r in rles]
        boxes = np.asarray(mask_util.toBbox(rles), np.float32).reshape(-1, 4) if rles else np.zeros((0, 4), np.float32)
        return Predictions(
            mask_id=np.arange(len(rows)),
            image_id=np.full(len(rows), image.id),
            class_id=np.array([r["category_id"] for r in rows], np.int32),
            box=boxes,
            rle=counts,
            size=np.tile([[image.height, image.width]], (len(rows), 1)),
            confidence=np.array([r["score"] for r in rows], np.float32),
            predicted_iou=np.array([r.get("predicted_iou", 1.0) for r in rows], np.float32),
            features=self._features(rows, rles, boxes),
        )

    def _features(self, rows: list[dict[str, Any]], rles: list[dict], boxes: np.ndarray) -> np.ndarray:
        if self._given:
            given = np.array([r["features"] for r in rows], np.float32)
            return given.reshape(len(rows), self._given).astype(np.float16)
        raw = torch.zeros((len(rles), _SIDE * _SIDE))
        for i, (rle, (x, y, w, h)) in enumerate(zip(rles, boxes.astype(int).tolist(), strict=True)):
            window = torch.from_numpy(decode_window(rle, x, y, x + w, y + h))
            raw[i] = resize_masks(window[None].float(), _SIDE).flatten()
        if not rles:
            return np.zeros((0, feature_width("mask_logits", _SIDE * _SIDE, self.width)), np.float16)
        return project("mask_logits", raw, self.width).numpy()


def _classes_beside(results: Path) -> dict[int, str] | None:
    path = results.with_name(CLASSES)
    if not path.is_file():
        return None
    try:
        return {int(number): str(name) for number, name in json.loads(path.read_bytes()).items()}
    except (ValueError, AttributeError, OSError) as error:
        raise InputError(path, "category ids and names", error) from None


def _read(path: Path) -> tuple[list[dict[str, Any]], bytes]:
    try:
        content = path.read_bytes()
        rows = json.loads(content)
    except FileNotFoundError:
        raise InputError(path, "a COCO results file", "no such file") from None
    except OSError as error:
        raise InputError(path, "a readable COCO results file", error.strerror or error) from None
    except (ValueError, RecursionError) as error:
        raise InputError(path, "JSON", error) from None
    if not isinstance(rows, list):
        raise InputError(path, "a list of results", type(rows).__name__)
    for number, row in enumerate(rows, 1):
        _check(f"{path} result {number}", row)
    return rows, content


def _check(name: str, row: Any) -> None:
    """Raises InputError where a result is none, its mask aside."""
    if not isinstance(row, dict) or not {"image_id", "category_id", "score", "segmentation"} <= row.keys():
        raise InputError(name, "image_id, category_id, score and segmentation", brief(row))
    for key in ("image_id", "category_id"):
        if not is_id(row[key]):
            raise InputError(f"{name} {key}", "an integer", brief(row[key]))
    for key in ("score", "predicted_iou"):
        value = row.get(key, 1.0)
        if not is_number(value) or not 0 <= value <= 1:
            raise InputError(f"{name} {key}", "a number from 0 to 1", brief(value))
    features = row.get("features")
    if features is not None and not (isinstance(features, list) and all(map(_is_feature, features))):
        raise InputError(f"{name} features", f"a list of numbers up to {_MOST:g}", brief(features))


def _is_feature(value: Any) -> bool:
    return is_number(value) and abs(value) <= _MOST
