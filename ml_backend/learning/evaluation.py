"""How good predictions are, against ground truth: AP, one-to-one matching, precision by score, calibration."""

from __future__ import annotations

import contextlib
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ml_backend.detector import Detector, Progress
from ml_backend.learning.calibration import Calibration
from ml_backend.masks.coco import CocoDataset, ImageRecord
from ml_backend.predictions import Predictions

MAX_DETECTIONS = 500


@dataclass(frozen=True)
class AveragePrecision:
    """COCO average precision, 0 to 1: mean over IoU 0.5 to 0.95, at 0.5 and at 0.75; nan without true masks."""

    ap: float
    ap50: float
    ap75: float


def average_precision(
    predictions: Predictions, truth: CocoDataset, max_detections: int = MAX_DETECTIONS
) -> dict[str, AveragePrecision]:
    """COCO AP of boxes ("box") and masks ("mask"), as pycocotools computes it, ranked by score `s`.

    Args:
        predictions: of the images of `truth`; those of other images are left out.
        truth: exhaustively annotated images.
        max_detections: the best this many of an image and class count; 500 suits crowded images.
    """
    return {
        name: _averages(_precision(predictions, truth, max_detections, kind))
        for name, kind in (("box", "bbox"), ("mask", "segm"))
    }


def mask_precision(
    predictions: Predictions, truth: CocoDataset, max_detections: int = MAX_DETECTIONS
) -> tuple[AveragePrecision, dict[int, AveragePrecision]]:
    """COCO AP of masks over all classes and of each class by its id; arguments are those of `average_precision`."""
    precision = _precision(predictions, truth, max_detections, "segm")
    classes = {class_id: precision[:, :, at] for at, class_id in enumerate(sorted(truth.classes))}
    return _averages(precision), {class_id: _averages(part) for class_id, part in classes.items()}


# The IoU thresholds of COCO AP: 0.5, 0.55, ..., 0.95.
_THRESHOLDS = np.linspace(0.5, 0.95, 10)


def _precision(predictions: Predictions, truth: CocoDataset, max_detections: int, kind: str) -> np.ndarray:
    """Precision (thresholds, recalls, classes) at 10 thresholds of IoU and 101 of recall; -1 without true objects."""
    predictions = predictions.select(np.isin(predictions.image_id, [i.id for i in truth.images]))
    if len(predictions) == 0:
        present = {a.class_id for a in truth.annotations}
        row = [0.0 if class_id in present else -1.0 for class_id in sorted(truth.classes)]
        return np.broadcast_to(row, (len(_THRESHOLDS), 101, len(row)))
    reference = _coco(truth)
    with contextlib.redirect_stdout(io.StringIO()):
        run = COCOeval(reference, reference.loadRes(_results(predictions)), kind)
        run.params.maxDets = [max_detections]
        run.params.areaRng, run.params.areaRngLbl = [[0, 1e10]], ["all"]
        run.evaluate()
        run.accumulate()
    return run.eval["precision"][:, :, :, 0, 0]


def _averages(precision: np.ndarray) -> AveragePrecision:
    """Over recalls and classes, and over all thresholds or those at 0.5 and 0.75."""
    return AveragePrecision(
        _mean(precision),
        _mean(precision[np.isclose(_THRESHOLDS, 0.5)]),
        _mean(precision[np.isclose(_THRESHOLDS, 0.75)]),
    )


def _mean(precision: np.ndarray) -> float:
    valid = precision[precision > -1]
    return float(valid.mean()) if valid.size else float("nan")


def _coco(truth: CocoDataset) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth.to_json()
        coco.createIndex()
    return coco


def _results(predictions: Predictions) -> list[dict]:
    scores = predictions.score
    return [
        {
            "image_id": int(predictions.image_id[i]),
            "category_id": int(predictions.class_id[i]),
            "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
            "bbox": [float(v) for v in predictions.box[i]],
            "score": float(scores[i]),
        }
        for i, rle in enumerate(predictions.rles())
    ]


def true_iou(
    predictions: Predictions, truth: CocoDataset, one_to_one: bool = True, same_class: bool = True
) -> np.ndarray:
    """IoU of each predicted mask with a true mask of its image, (n,) float32; 0 where there is none.

    Args:
        predictions: of images of `truth`.
        truth: annotated images.
        one_to_one: pairs are made best IoU first and a true mask is used once, so a duplicate gets 0 (what an export
            is worth). Otherwise each mask gets its best IoU (what a person sees who looks at the one mask).
        same_class: only true masks of the predicted class count.
    """
    result = np.zeros(len(predictions), np.float32)
    for rows, _, iou in _overlaps(predictions, truth, same_class):
        result[rows] = one_to_one_iou(iou) if one_to_one else iou.max(axis=1)
    return result


def best_objects(predictions: Predictions, truth: CocoDataset) -> tuple[np.ndarray, np.ndarray]:
    """The true mask of its image and class that each mask overlaps most, as a row of `truth.annotations`, and the IoU.

    (n,) int64, −1 where there is none, and (n,) float64.
    """
    best, result = np.full(len(predictions), -1, np.int64), np.zeros(len(predictions))
    for rows, numbers, iou in _overlaps(predictions, truth):
        best[rows], result[rows] = np.array(numbers)[iou.argmax(axis=1)], iou.max(axis=1)
    return best, result


def _overlaps(
    predictions: Predictions, truth: CocoDataset, same_class: bool = True
) -> Iterator[tuple[list[int], list[int], np.ndarray]]:
    """For each image and class that has both: rows of predictions, rows of true masks, crowds aside, and their IoU."""

    def key(image_id: int, class_id: int) -> tuple[int, int]:
        return image_id, class_id if same_class else 0

    true: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number, annotation in enumerate(truth.annotations):
        if not annotation.iscrowd:
            true[key(annotation.image_id, annotation.class_id)].append(number)
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for row, pair in enumerate(zip(predictions.image_id.tolist(), predictions.class_id.tolist(), strict=True)):
        groups[key(*pair)].append(row)
    rles = predictions.rles()
    for place, members in groups.items():
        if numbers := true.get(place):
            there = [truth.annotations[n].rle for n in numbers]
            yield members, numbers, np.asarray(mask_util.iou([rles[i] for i in members], there, [0] * len(there)))


def one_to_one_iou(iou: np.ndarray) -> np.ndarray:
    """IoU of each row's partner, (n,), where rows and columns of `iou`, (n, m), are paired best first; else 0.

    >>> one_to_one_iou(np.array([[0.75, 0.25], [0.875, 0.0]])).tolist()
    [0.25, 0.875]
    """
    result = np.zeros(iou.shape[0], np.float32)
    for row, column in one_to_one_pairs(iou):
        result[row] = iou[row, column]
    return result


def one_to_one_pairs(iou: np.ndarray, least: float = 0.0) -> list[tuple[int, int]]:
    """(row, column) of each pair where rows and columns of `iou`, (n, m), are paired best first, each once at most.

    Pairs below `least` are left out, and those of IoU 0.

    >>> one_to_one_pairs(np.array([[0.75, 0.25], [0.875, 0.0]]), 0.5)
    [(1, 0)]
    """
    pairs = []
    free_row, free_column = np.ones(iou.shape[0], bool), np.ones(iou.shape[1], bool)
    rows, columns = np.nonzero((iou > 0) & (iou >= least))
    for at in np.argsort(-iou[rows, columns], kind="stable"):
        row, column = int(rows[at]), int(columns[at])
        if free_row[row] and free_column[column]:
            free_row[row] = free_column[column] = False
            pairs.append((row, column))
    return pairs


@dataclass(frozen=True)
class CalibrationReport:
    """Predicted against true IoU over n masks.

    correlation: Pearson's; nan where one of the two does not vary.
    error: expected calibration error over ten bins of predicted IoU.
    mean_predicted, mean_true: their means.
    """

    masks: int
    correlation: float
    error: float
    mean_predicted: float
    mean_true: float

    def to_json(self) -> dict[str, float]:
        """As a plain dict."""
        return asdict(self)


def calibration_report(predicted: np.ndarray, true: np.ndarray) -> CalibrationReport:
    """How honest predicted IoU is; both (n,)."""
    predicted, true = np.asarray(predicted, float), np.asarray(true, float)
    if len(predicted) == 0:
        return CalibrationReport(0, float("nan"), float("nan"), float("nan"), float("nan"))
    bins = np.minimum((predicted * 10).astype(int), 9)
    error = sum(
        np.sum(bins == b) * abs(predicted[bins == b].mean() - true[bins == b].mean()) for b in np.unique(bins)
    ) / len(predicted)
    varies = len(predicted) > 1 and predicted.std() > 0 and true.std() > 0
    correlation = float(np.corrcoef(predicted, true)[0, 1]) if varies else float("nan")
    return CalibrationReport(len(predicted), correlation, float(error), float(predicted.mean()), float(true.mean()))


def predict_all(detector: Detector, images: Iterable[ImageRecord]) -> Predictions:
    """All predictions of `detector` for `images` in one record, numbered from 0."""
    return Predictions.concatenate(list(detector.predict(images))).with_ids(0, 0)


def measure(
    predictions: Iterable[Predictions],
    heldout: CocoDataset,
    max_detections: int = MAX_DETECTIONS,
    calibrate: bool = True,
    progress: Progress | None = None,
) -> tuple[Calibration, dict[str, Any]]:
    """Calibration of predicted IoU and metrics, from the predictions of a detector without calibration.

    Args:
        predictions: of each image of `heldout`, in order.
        heldout: exhaustively annotated images.
        max_detections: see `average_precision`.
        calibrate: fit the calibration; otherwise the one returned changes nothing.
        progress: called with ("heldout", done, total).
    """
    parts = []
    for done, part in enumerate(predictions, 1):
        parts.append(part)
        if progress:
            progress("heldout", done, len(heldout.images))
    joined = Predictions.concatenate(parts)
    # The IoU head knows no classes; a wrong class is the business of the confidence.
    true = true_iou(joined, heldout, one_to_one=False, same_class=False)
    calibration = Calibration()
    before = after = calibration_report(joined.predicted_iou, true)
    if calibrate:
        # Honest figures: each half of the images is judged by what the other half taught.
        crossed = np.array(joined.predicted_iou)
        half = np.isin(joined.image_id, [i.id for i in heldout.images][::2])
        for rows in (half, ~half):
            crossed[rows] = Calibration.fit(joined.predicted_iou[~rows], true[~rows])(joined.predicted_iou[rows])
        after = calibration_report(crossed, true)
        calibration = Calibration.fit(joined.predicted_iou, true)
    calibrated = replace(joined, predicted_iou=calibration(joined.predicted_iou))
    precision = average_precision(calibrated, heldout, max_detections)
    return calibration, {
        "heldout_images": len(heldout.images),
        "heldout_masks": len(joined),
        **{f"{kind}_{k}": v for kind, values in precision.items() for k, v in vars(values).items()},
        "iou_before_calibration": before.to_json(),
        "iou_after_calibration": after.to_json(),
    }
