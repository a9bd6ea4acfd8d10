"""Train and retrain: the labelled images, and from the second round on the masks obtained so far."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np

from campaign.dataset.listed import ListedMasks
from campaign.derived.ranking import doubtful
from campaign.derived.recall import complete_images
from campaign.records.dataset_masks import DatasetMasks
from campaign.search.sampling import draw_keys
from campaign.steps.handover import carried, leave
from campaign.store import Store
from ml_backend.detector import Progress, load_detector_class
from ml_backend.masks.coco import Annotation, CocoDataset
from ml_backend.masks.fetched import fetch

logger = logging.getLogger(__name__)

_SALT = 83  # of the draw of images


def train(store: Store, round_number: int, progress: Progress | None = None) -> None:
    """Trains the detector of a round, from the weights of the round before where there are any."""
    rows = {r.number: r for r in store.rounds.all()}
    output = store.folder / "models" / f"{round_number:03d}"
    if rows[round_number].checkpoint:
        leave(store, output)
        return
    detector = load_detector_class(store.settings.detector.name)
    data = training_set(store, round_number)
    heldout = store.images.annotated("heldout")
    fetch(image.path for image in [*data.images, *heldout.images])
    before = rows.get(round_number - 1)
    checkpoint = detector.train(
        data,
        heldout if heldout.images else None,
        output,
        options=dict(store.settings.detector.options) | {"seed": store.settings.seed},
        progress=carried(store, output, progress),
        start_from=store.checkpoint(before) if before and before.checkpoint else None,
    )
    trained = detector.load(checkpoint)
    metrics: dict[str, Any] = {"trained_on": {"images": len(data.images), "masks": len(data.annotations)}}
    # What a detector from elsewhere may not know: how its training went, its learning curve above all.
    course = getattr(trained, "metrics", {}).get("training")
    if course:
        metrics["training"] = course
    kept = store.keep_checkpoint(output, checkpoint)
    store.rounds.update(round_number, checkpoint=kept, model_version=trained.version, metrics=metrics)
    leave(store, output)


def training_set(store: Store, round_number: int) -> CocoDataset:
    """Labelled images, with the masks of earlier rounds on pool images, on `rounds.train_images` of them at most.

    Those are not exhaustively annotated, except where people looked and found nothing missing: there all that has no
    mask is background, in images without any mask too. Masks that were corrected by clicks and are more likely wrong
    than right are left out; their images then lack one. Of too many images the complete ones come first, the others are
    drawn: a training sees only so many, and what it sees has to fit memory.
    """
    data = store.images.annotated("labelled")
    obtained = ListedMasks.concatenate(store.datasets.listed(before=round_number))
    if not len(obtained):
        return data
    complete = complete_images(store, obtained)
    if doubted := doubtful(store, obtained.mask_id):
        out = np.isin(obtained.mask_id, sorted(doubted))
        complete = complete.difference(obtained.image_id[out].tolist())
        obtained = obtained.select(~out)
        logger.info("%d masks corrected by clicks are not trained on, more likely wrong than right", len(doubted))
    candidates = np.union1d(obtained.image_id, np.array(sorted(complete), np.int64))
    chosen = _drawn(candidates, complete, store.settings.rounds.train_images, store.settings.seed)
    if len(chosen) < len(candidates):
        logger.info("%d of %d images with masks are trained on: rounds.train_images", len(chosen), len(candidates))
    images = store.images.some(chosen.tolist())
    masks = obtained.read(np.isin(obtained.image_id, chosen))
    data.annotations += _annotations(masks, first_id=len(data.annotations) + 1)
    data.images += [replace(images[i], exhaustive=i in complete) for i in chosen.tolist()]
    return data


def _drawn(images: np.ndarray, first: set[int], most: int, seed: int) -> np.ndarray:
    """At most so many of some images, those in `first` before all others, by id."""
    key = np.where(np.isin(images, sorted(first)), np.uint64(0), draw_keys(seed, _SALT, images))
    return np.sort(images[np.argsort(key, kind="stable")[:most]])


def _annotations(masks: DatasetMasks, first_id: int) -> list[Annotation]:
    return [
        Annotation(first_id + n, int(image), int(class_id), rle)
        for n, (image, class_id, rle) in enumerate(zip(masks.image_id, masks.class_id, masks.rles(), strict=True))
    ]
