"""Predictions made by any other model, read from a COCO results file, JSON lines or Parquet."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pycocotools import mask as mask_util

from ml_backend.detector import Progress
from ml_backend.detectors.results_index import Result, ResultsIndex, is_index, version_of, write_index
from ml_backend.errors import InputError, brief
from ml_backend.files import write_whole
from ml_backend.learning.features import feature_width, project
from ml_backend.learning.iou_head import resize_masks
from ml_backend.masks.coco import CocoDataset, ImageRecord, to_rle
from ml_backend.masks.rle import decode_window
from ml_backend.predictions import Predictions

CLASSES = "classes.json"  # beside the results, which have no names
_SIDE = 56


class CocoResults:
    """The results of another model as a detector.

    The file is a list of objects with `image_id`, `category_id`, `score` and `segmentation` (polygons or RLE), as
    pycocotools takes them; JSON lines and Parquet of the same will do. Image ids are those of the COCO files that the
    images come from; where two files share ids, `file_name` in a result says which image it is on. `predicted_iou` and
    `features` (a list of numbers, of one length throughout) are used where they are given; otherwise predicted IoU is
    1 and the feature is the mask's own shape. A file of any size is read once, into an index beside it, and then by
    image.

    Attributes:
        version: a name of the file's content.
        classes: category id to name; a result of another class is an error.
    """

    READS_IMAGES: ClassVar[bool] = False
    LEARNS: ClassVar[bool] = False

    def __init__(self, path: str | Path, classes: dict[int, str] | None = None, feature_width: int = 512):
        self.path, self.width = Path(path), feature_width
        self._index = _index_of(self.path)
        self.version = self._index.version
        self.classes = dict(classes) if classes else {c: str(c) for c in self._index.categories}
        for category in self._index.categories:
            if category not in self.classes:
                raise InputError(f"{path} category_id", f"one of {brief(sorted(self.classes))}", category)

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
        """There is nothing to train: reads the file that option `results` names, once, into an index in `output`.

        Without that option the file of the round before, `start_from`, is taken again. An index that is there is
        left as it is.
        """
        source = (options or {}).get("results") or start_from
        if source is None:
            raise InputError("detector option results", "a COCO results file", "nothing")
        target = Path(output) / "results.sqlite"
        if not (is_index(target) and ResultsIndex(target).version == version_of(Path(source))):
            if is_index(Path(source)):
                write_whole(target, lambda partial: _same(Path(source), partial))
            else:
                write_index(Path(source), target)
        try:
            cls(target, data.classes)
        except InputError:
            target.unlink(missing_ok=True)
            raise
        names = json.dumps({str(number): name for number, name in data.classes.items()})
        write_whole(target.with_name(CLASSES), lambda partial: partial.write_text(names))
        if progress:
            progress("train", 1, 1)
        return target

    def predict(self, images: Iterable[ImageRecord]) -> Iterator[Predictions]:
        """One `Predictions` per image, in order, best score first. Raises InputError for a malformed mask."""
        for image in images:
            yield self._predict(image)

    def _predict(self, image: ImageRecord) -> Predictions:
        coco_id = image.id if image.coco_id is None else image.coco_id
        results = sorted(self._index.of_image(coco_id, image.file_name), key=lambda r: -r.score * r.predicted_iou)
        rles = []
        for result in results:
            try:
                rles.append(to_rle(result.segmentation, image.height, image.width))
            except ValueError as error:
                raise InputError(f"{self.path} segmentation of image {image.id}", str(error), "another") from None
        solid = [i for i, rle in enumerate(rles) if mask_util.area(rle)]
        results, rles = [results[i] for i in solid], [rles[i] for i in solid]
        counts = np.empty(len(rles), object)
        counts[:] = [r["counts"] for r in rles]
        boxes = np.asarray(mask_util.toBbox(rles), np.float32).reshape(-1, 4) if rles else np.zeros((0, 4), np.float32)
        return Predictions(
            mask_id=np.arange(len(results)),
            image_id=np.full(len(results), image.id),
            class_id=np.array([r.category_id for r in results], np.int32),
            box=boxes,
            rle=counts,
            size=np.tile([[image.height, image.width]], (len(results), 1)),
            confidence=np.array([r.score for r in results], np.float32),
            predicted_iou=np.array([r.predicted_iou for r in results], np.float32),
            features=self._features(results, rles, boxes),
        )

    def _features(self, results: list[Result], rles: list[dict], boxes: np.ndarray) -> np.ndarray:
        if width := self._index.width:
            return np.stack([r.features for r in results]) if results else np.zeros((0, width), np.float16)
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


def _index_of(path: Path) -> ResultsIndex:
    """The index of a results file: the file itself, or one beside it, which is made where it is not there or old.

    Campaigns of before keep the file of results as it was given.
    """
    if is_index(path):
        return ResultsIndex(path)
    beside = path.with_name(f".{path.name}.sqlite")
    if not (is_index(beside) and beside.stat().st_mtime_ns >= path.stat().st_mtime_ns):
        write_index(path, beside)
    return ResultsIndex(beside)


def _same(source: Path, target: Path) -> None:
    """Makes `target` the same file, without a copy where the file system can."""
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)
