"""Populations from a campaign's own predictions, on images whose truth is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from campaign.simulation.mixtures import Triplets
from campaign.simulation.populations import ClassPopulation, given_population
from campaign.store import Store
from ml_backend.detector import Progress
from ml_backend.errors import InputError
from ml_backend.learning.evaluation import true_iou
from ml_backend.masks.coco import CocoDataset
from ml_backend.predictions import Predictions


def campaign_population(
    store: Store,
    truth: Path,
    images: Path,
    round_number: int = 1,
    keep_features: bool = False,
    progress: Progress | None = None,
) -> list[ClassPopulation]:
    """The classes of a campaign with the (feature, score, IoU) triplets of its masks, by the pool's true masks.

    A mask's IoU is that with its best true mask, as a person sees it who looks at the one mask. `keep_features`:
    the baselines need them. Raises InputError where the round has no predictions or `truth` is no COCO file of the
    pool's images.
    """
    return population_of(
        store, *pool_of_round(store, truth, images, round_number), round_number, keep_features, progress
    )


def population_of(
    store: Store, pool: Predictions, data: CocoDataset, round_number: int = 1, keep_features: bool = False,
    progress: Progress | None = None,
) -> list[ClassPopulation]:  # fmt: skip
    """The same of the pool's predictions and their truth, see `pool_of_round`."""
    heldout = store.masks.predictions(round_number, "heldout")
    triplets = _triplets(pool, data), _triplets(heldout, store.images.annotated("heldout"))
    return given_population(*triplets, keep_features=keep_features, progress=progress)


def pool_of_round(store: Store, truth: Path, images: Path, round_number: int) -> tuple[Predictions, CocoDataset]:
    """The pool's predictions of a round, images numbered as in the COCO file of their truth, and that file.

    Raises InputError where the round has no predictions or `truth` is no COCO file of the pool's images.
    """
    data = CocoDataset.load(truth, images)
    coco_ids = {r.id: r.coco_id for r in store.images.rows("pool")}
    predictions = store.masks.predictions(round_number)
    if not len(predictions):
        raise InputError(f"round {round_number} of {store.place}", "predictions", "none")
    return replace(predictions, image_id=np.array([coco_ids[int(i)] for i in predictions.image_id], np.int64)), data


def _triplets(masks: Predictions, truth: CocoDataset) -> dict[int, Triplets]:
    iou = true_iou(masks, truth, one_to_one=False)
    triplets = {}
    for class_id in np.unique(masks.class_id).tolist():
        rows = np.flatnonzero(masks.class_id == class_id)
        triplets[class_id] = Triplets(masks.features[rows], masks.score[rows], iou[rows])
    return triplets
