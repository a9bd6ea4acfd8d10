"""Detect: one shard of images at a time, and what the held-out images say about the detector.

The held-out images come first. From them follows which masks are worth keeping, and the pool's others are never stored.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from campaign.clustering import Tree, linkage
from campaign.search.least_score import KEPT, LeastScore, learn_least_score, set_least_score
from campaign.search.thresholds import DEFAULT_K_PA, Thresholds, learn_thresholds
from campaign.settings import Split
from campaign.steps.cluster import linkage_options
from campaign.steps.looking import is_signed, look_for_duplicates, sign
from campaign.store import Store
from ml_backend.detector import Detector, Progress, load_detector_class
from ml_backend.learning.evaluation import average_precision, true_iou
from ml_backend.masks.coco import CocoDataset
from ml_backend.masks.fetched import fetch
from ml_backend.predictions import Predictions


def detect(store: Store, round_number: int, split: Split, number: int, progress: Progress | None = None) -> None:
    """Predicts the masks of one shard of images and stores them. A finished shard is left as it is."""
    if store.masks.is_stored(round_number, split, number):
        return
    images = store.images.shard(split, number, store.settings.jobs.shard_images, round_number)
    if round_number == 1 or is_signed(store):  # images that joined later, too
        sign(store, split, number, images)
    checkpoint = store.checkpoint(store.rounds.get(round_number))
    detector = load_checkpoint(store.settings.detector.name, str(checkpoint))
    fetch(image.path for image in images)
    started = time.monotonic()
    parts: list[Predictions] = []
    least = {} if split == "heldout" else least_scores(store, round_number)
    for done, predictions in enumerate(detector.predict(images), 1):
        parts.append(worth_keeping(predictions, least))
        if progress:
            progress("detect", done, len(images))
    store.masks.save_shard(
        round_number, split, number, Predictions.concatenate(parts), len(images), time.monotonic() - started
    )


@lru_cache(maxsize=2)
def load_checkpoint(name: str, checkpoint: str) -> Detector:
    """A detector, kept for the next shard."""
    return load_detector_class(name).load(Path(checkpoint))


def bound(store: Store, round_number: int) -> None:
    """Learns from the held-out masks which are worth keeping, and drops the others of them as the pool's will be.

    AP on the held-out images is measured before. What was learned is stored first and never learned again, so that a
    run that was interrupted drops just the same.
    """
    metrics = store.rounds.get(round_number).metrics
    if KEPT not in metrics:
        heldout = store.images.annotated("heldout")
        predictions = store.masks.predictions(round_number, "heldout", features=False)
        learned = {str(c): asdict(_least_score(store, heldout, predictions, c)) for c in store.classes()}
        metrics = {"ap": _ap(predictions, heldout), KEPT: {"classes": learned, "applied": False}}
        store.rounds.update(round_number, metrics=metrics)
    if metrics[KEPT]["applied"]:
        return
    least = least_scores(store, round_number)
    for row in store.masks.shards(round_number, "heldout"):
        shard = store.masks.shard(store.masks.shard_path(round_number, "heldout", row.number))
        kept = worth_keeping(shard, least)
        if len(kept) < len(shard):
            store.masks.save_shard(round_number, "heldout", row.number, kept, row.images, row.seconds)
    store.rounds.update(round_number, metrics={KEPT: metrics[KEPT] | {"applied": True}})
    for class_id, name in store.classes().items():
        one = metrics[KEPT]["classes"][str(class_id)]
        if one["kept"] < one["masks"]:
            lost = one["correct"] - one["correct_kept"]
            store.log(
                f"{name}: masks are kept from score {one['least']:.3f} on, {one['kept']} of {one['masks']} held-out "
                f"ones, without {lost} of {one['correct']} correct ones"
            )


def _least_score(store: Store, heldout: CocoDataset, predictions: Predictions, class_id: int) -> LeastScore:
    of_class = predictions.select(predictions.class_id == class_id)
    correct = true_iou(of_class, heldout, one_to_one=False) >= store.settings.search.k_iou
    objects = sum(a.class_id == class_id and not a.iscrowd for a in heldout.annotations)
    keep = store.settings.detector.keep
    if keep is not None:
        return set_least_score(keep, of_class.score, correct, objects)
    return learn_least_score(of_class.score, correct, objects)


def least_scores(store: Store, round_number: int) -> dict[int, float]:
    """Of each class the least score of a mask that is kept: what `bound` stored, else what the lead set for all."""
    stored = store.rounds.get(round_number).metrics.get(KEPT)
    if stored is not None:
        return {int(class_id): one["least"] for class_id, one in stored["classes"].items()}
    return dict.fromkeys(store.classes(), store.settings.detector.keep or 0.0)


def worth_keeping(predictions: Predictions, least: dict[int, float]) -> Predictions:
    """The predictions whose score is at least that of their class in `least`; a class that is not in it keeps all."""
    limits = np.array([least.get(class_id, 0.0) for class_id in predictions.class_id.tolist()])
    kept = predictions.score >= limits
    return predictions if kept.all() else predictions.select(kept)


def assess(store: Store, round_number: int) -> None:
    """`K_pr`, `K_pa` of every class, learned from its held-out masks.

    And AP on the held-out images, where `bound` did not measure it.
    """
    look_for_duplicates(store)
    settings = store.settings.search
    heldout = store.images.annotated("heldout")
    predictions = store.masks.predictions(round_number, "heldout") if heldout.images else Predictions.empty()
    metrics: dict = {"thresholds": {}}
    if heldout.images and "ap" not in store.rounds.get(round_number).metrics:
        metrics["ap"] = _ap(predictions, heldout)
    scores = cache(partial(store.masks.scores, round_number))
    for class_id in store.classes():
        of_class = predictions.select(predictions.class_id == class_id)
        if heldout.images and len(of_class):
            correct = true_iou(of_class, heldout, one_to_one=False) >= settings.k_iou
            tree = Tree.build(linkage(of_class.features, of_class.score, linkage_options(store)), of_class.score)
            learned = learn_thresholds(tree, of_class.score, correct, settings.k_a, fallback=cautious(of_class.score))
        else:
            learned = cautious(scores().get(class_id, np.zeros(0, np.float32)))
        metrics["thresholds"][str(class_id)] = _chosen(learned, settings.k_pr, settings.k_pa)
    store.rounds.update(round_number, metrics=metrics)


def _ap(predictions: Predictions, heldout: CocoDataset) -> dict[str, Any]:
    return _plain({kind: asdict(ap) for kind, ap in average_precision(predictions, heldout).items()})


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
