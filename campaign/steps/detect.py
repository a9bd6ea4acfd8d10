"""Detect: one shard of images at a time, then what the held-out images say about the detector."""

from __future__ import annotations

import time
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from campaign.clustering import Tree, linkage
from campaign.search.thresholds import DEFAULT_K_PA, Thresholds, learn_thresholds
from campaign.settings import Split
from campaign.steps.cluster import linkage_options
from campaign.store import Store
from ml_backend.detector import Detector, Progress, load_detector_class
from ml_backend.learning.evaluation import average_precision, true_iou
from ml_backend.predictions import Predictions


def detect(store: Store, round_number: int, split: Split, number: int, progress: Progress | None = None) -> None:
    """Predicts the masks of one shard of images and stores them. A finished shard is left as it is."""
    if any(s.number == number for s in store.masks.shards(round_number, split)):
        return
    step = store.settings.jobs.shard_images
    images = store.images.records(split)[number * step : (number + 1) * step]
    checkpoint = store.rounds.get(round_number).checkpoint
    detector = load_checkpoint(store.settings.detector.name, str(checkpoint))
    started = time.monotonic()
    parts: list[Predictions] = []
    for done, predictions in enumerate(detector.predict(images), 1):
        parts.append(predictions)
        if progress:
            progress("detect", done, len(images))
    store.masks.save_shard(
        round_number, split, number, Predictions.concatenate(parts), len(images), time.monotonic() - started
    )


@lru_cache(maxsize=2)
def load_checkpoint(name: str, checkpoint: str) -> Detector:
    """A detector, kept for the next shard."""
    return load_detector_class(name).load(Path(checkpoint))


def assess(store: Store, round_number: int) -> None:
    """AP on the held-out images, and `K_pr`, `K_pa` of every class learned from its held-out masks."""
    settings = store.settings.search
    heldout = store.images.annotated("heldout")
    predictions = store.masks.predictions(round_number, "heldout") if heldout.images else Predictions.empty()
    metrics: dict = {"thresholds": {}}
    if heldout.images:
        metrics["ap"] = _plain({k: asdict(v) for k, v in average_precision(predictions, heldout).items()})
    for class_id in store.classes():
        of_class = predictions.select(predictions.class_id == class_id)
        if heldout.images and len(of_class):
            correct = true_iou(of_class, heldout, one_to_one=False) >= settings.k_iou
            tree = Tree.build(linkage(of_class.features, of_class.score, linkage_options(store)), of_class.score)
            learned = learn_thresholds(tree, of_class.score, correct, settings.k_a, fallback=cautious(of_class.score))
        else:
            learned = cautious(store.masks.predictions(round_number, "pool", class_id, features=False).score)
        metrics["thresholds"][str(class_id)] = _chosen(learned, settings.k_pr, settings.k_pa)
    store.rounds.update(round_number, metrics=metrics)


def cautious(scores: np.ndarray) -> Thresholds:
    """Thresholds where too little is held out to learn them: nothing is rejected unseen, and the best quarter asked.

    A fixed `K_pa` would silence a detector whose scores are low throughout, as after a short training.
    """
    k_pa = min(DEFAULT_K_PA, float(np.quantile(scores, 0.75))) if len(scores) else DEFAULT_K_PA
    return Thresholds(0.0, k_pa, note=f"K_pa is the lesser of {DEFAULT_K_PA} and the scores' upper quartile")


def _chosen(learned: Thresholds, k_pr: float | None, k_pa: float | None) -> dict:
    """What a round keeps of the thresholds; a lead's setting goes before what was learned."""
    pa = learned.k_pa if k_pa is None else k_pa
    pr = min(learned.k_pr, pa) if k_pr is None else k_pr
    pa = max(pr, pa)  # only one of the two may be set
    curves = None if learned.curves is None else _plain(asdict(learned.curves))
    prior = None if learned.prior is None else asdict(learned.prior)
    return {"k_pr": pr, "k_pa": pa, "note": learned.note, "curves": curves, "prior": prior}


def _plain(value: Any) -> Any:
    """The value for JSON, which has no NaN: such a one is null."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and np.isnan(value) else value
