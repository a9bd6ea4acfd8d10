"""Features of real detections, made once by the tiny detector and kept in the user's cache folder.

    python -m tests.benchmarks.features nuclei

trains on the labelled images of a data set beside the checkout (some minutes), predicts its pool, and stores
features (n, d), scores, true IoUs, image and class of each mask.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from platformdirs import user_cache_path

from ml_backend.predictions import Predictions

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def real_features(name: str, path: Path | None = None) -> dict[str, np.ndarray]:
    """Arrays `features`, `scores`, `iou`, `image` and `class_id` of the detections in a data set's pool."""
    path = path or user_cache_path("label-studio-cluster-verification") / "benchmarks" / f"{name}.npz"
    if not path.is_file():
        store(detected(name), name, path)
    with np.load(path) as stored:
        return dict(stored)


def detected(name: str) -> Predictions:
    """Train the tiny detector on a data set's labelled images and predict its pool."""
    from ml_backend.detector import load_detector_class
    from ml_backend.masks.coco import CocoDataset

    folder = DATA / name
    if not (folder / "pool.json").is_file():
        sys.exit(f"{folder}: expected the data set {name}, got no such folder")
    images = folder / "images"
    labelled, heldout = (CocoDataset.load(folder / f"{part}.json", images) for part in ("labelled", "heldout"))
    pool = CocoDataset.load(folder / "pool.json", images, annotations=False)

    def progress(step: str, done: int, total: int) -> None:
        if done == total or done % 100 == 0:
            print(f"{name}: {step} {done}/{total}", file=sys.stderr)

    with tempfile.TemporaryDirectory(prefix="detector-") as output:
        detector = load_detector_class("torchvision")
        checkpoint = detector.train(labelled, heldout, Path(output), options={"preset": "tiny"}, progress=progress)
        return Predictions.concatenate(list(detector.load(checkpoint).predict(pool.images)))


def store(predictions: Predictions, name: str, path: Path) -> None:
    """Keep what clustering and its simulation need of a pool's predictions."""
    from ml_backend.learning.evaluation import true_iou
    from ml_backend.masks.coco import CocoDataset

    truth = CocoDataset.load(DATA / name / "pool.json", DATA / name / "images")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.npz")
    np.savez(
        part,
        features=predictions.features,
        scores=predictions.score,
        iou=true_iou(predictions, truth),
        image=predictions.image_id,
        class_id=predictions.class_id,
    )
    part.replace(path)


if __name__ == "__main__":
    for wanted in sys.argv[1:] or ("nuclei", "granular"):
        print(wanted, {key: value.shape for key, value in real_features(wanted).items()})
