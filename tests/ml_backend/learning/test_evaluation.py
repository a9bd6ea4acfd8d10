import contextlib
import io
import math
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ml_backend.learning.evaluation import (
    average_precision,
    calibration_report,
    one_to_one_iou,
    true_iou,
)
from ml_backend.masks.coco import Annotation, CocoDataset, ImageRecord
from ml_backend.predictions import Predictions

SIDE = 100


def box_rle(x, y, w, h):
    mask = np.zeros((SIDE, SIDE), np.uint8, order="F")
    mask[y : y + h, x : x + w] = 1
    return {"size": [SIDE, SIDE], "counts": mask_util.encode(mask)["counts"]}


def predictions(rows):
    """Rows of (image, class, x, y, w, h, score)."""
    rle = np.empty(len(rows), object)
    rle[:] = [box_rle(*r[2:6])["counts"] for r in rows]
    return Predictions(
        mask_id=np.arange(len(rows)),
        image_id=[r[0] for r in rows],
        class_id=[r[1] for r in rows],
        box=np.array([r[2:6] for r in rows], np.float32).reshape(-1, 4),
        rle=rle,
        size=np.full((len(rows), 2), SIDE),
        confidence=[r[6] for r in rows],
        predicted_iou=np.ones(len(rows)),
        features=np.zeros((len(rows), 0)),
    )


def dataset(rows, images=3):
    """Rows of (image, class, x, y, w, h)."""
    records = [ImageRecord(i, f"{i}.png", SIDE, SIDE, Path(f"{i}.png")) for i in range(1, images + 1)]
    annotations = [Annotation(n, r[0], r[1], box_rle(*r[2:6])) for n, r in enumerate(rows, 1)]
    return CocoDataset(records, {1: "disk", 2: "square"}, annotations)


def drawn(seed, n=60):
    rng = np.random.default_rng(seed)
    true, found = [], []
    for _ in range(n):
        image, class_id = int(rng.integers(1, 4)), int(rng.integers(1, 3))
        x, y, w, h = (int(v) for v in (*rng.integers(0, 70, 2), *rng.integers(5, 30, 2)))
        true.append((image, class_id, x, y, w, h))
        for _ in range(rng.integers(0, 3)):
            dx, dy = (int(v) for v in rng.integers(-3, 4, 2))
            found.append((image, class_id, max(x + dx, 0), max(y + dy, 0), w, h, float(rng.random())))
    return dataset(true), predictions(found)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("name", "kind"), [("box", "bbox"), ("mask", "segm")])
def test_average_precision_equals_pycocotools(seed, name, kind):
    truth, found = drawn(seed)
    ours = average_precision(found, truth, max_detections=100)[name]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth.to_json()
        coco.createIndex()
        rows = [
            {"image_id": int(i), "category_id": int(c), "bbox": b.tolist(), "segmentation": r, "score": float(s)}
            for i, c, b, r, s in zip(found.image_id, found.class_id, found.box, found.rles(), found.score, strict=True)
        ]
        run = COCOeval(coco, coco.loadRes(rows), kind)
        run.evaluate()
        run.accumulate()
        run.summarize()
    assert [ours.ap, ours.ap50, ours.ap75] == pytest.approx(run.stats[:3].tolist())


def test_average_precision_of_perfect_and_of_no_predictions():
    rows = [(1, 1, 10, 10, 20, 20), (2, 2, 40, 40, 10, 10)]
    truth = dataset(rows)
    perfect = average_precision(predictions([(*r, 0.9) for r in rows]), truth)["mask"]
    assert (perfect.ap, perfect.ap50, perfect.ap75) == pytest.approx((1, 1, 1))
    assert average_precision(predictions([]), truth)["mask"].ap == 0
    assert math.isnan(average_precision(predictions([]), dataset([]))["mask"].ap)


def test_crowded_images_count_all_their_masks():
    rows = [(1, 1, x, y, 4, 4) for x in range(0, 100, 6) for y in range(0, 100, 6)]
    truth, found = dataset(rows), predictions([(*r, 0.9) for r in rows])
    assert len(rows) > 200
    assert average_precision(found, truth)["mask"].ap == pytest.approx(1)
    assert average_precision(found, truth, max_detections=100)["mask"].ap < 0.5


def test_predictions_of_other_images_are_left_out():
    truth = dataset([(1, 1, 10, 10, 20, 20)])
    found = predictions([(1, 1, 10, 10, 20, 20, 0.5), (9, 1, 10, 10, 20, 20, 0.9)])
    assert average_precision(found, truth)["mask"].ap == pytest.approx(1)


@pytest.mark.parametrize(
    ("iou", "expected"),
    [
        ([[0.9, 0.2], [0.3, 0.8]], [0.9, 0.8]),
        ([[0.9], [0.95]], [0.0, 0.95]),
        ([[0.6, 0.5], [0.7, 0.0]], [0.5, 0.7]),
        ([[0.0, 0.0]], [0.0]),
    ],
    ids=["each its own", "a duplicate", "best first", "nothing"],
)
def test_one_to_one(iou, expected):
    assert one_to_one_iou(np.array(iou)).tolist() == pytest.approx(expected)


def test_true_iou_keeps_images_and_classes_apart():
    truth = dataset([(1, 1, 0, 0, 10, 10), (2, 2, 0, 0, 10, 10)])
    found = predictions(
        [
            (1, 1, 0, 0, 10, 10, 0.9),
            (1, 1, 0, 0, 10, 5, 0.8),
            (1, 2, 0, 0, 10, 10, 0.9),
            (2, 1, 0, 0, 10, 10, 0.9),
            (2, 2, 0, 0, 5, 10, 0.9),
            (3, 1, 0, 0, 10, 10, 0.9),
        ]
    )
    assert true_iou(found, truth).tolist() == pytest.approx([1, 0, 0, 0, 0.5, 0])
    assert true_iou(found, truth, one_to_one=False).tolist() == pytest.approx([1, 0.5, 0, 0, 0.5, 0])
    assert true_iou(found, truth, False, same_class=False).tolist() == pytest.approx([1, 0.5, 1, 1, 0.5, 0])


@pytest.mark.parametrize(
    ("predicted", "true", "error"),
    [([0.25, 0.85], [0.25, 0.85], 0.0), ([0.9, 0.9], [0.5, 0.7], 0.3), ([0.1, 0.9], [0.2, 0.6], 0.2)],
)
def test_calibration_error(predicted, true, error):
    assert calibration_report(predicted, true).error == pytest.approx(error)


def test_calibration_of_nothing():
    report = calibration_report([], [])
    assert report.masks == 0
    assert math.isnan(report.correlation)
