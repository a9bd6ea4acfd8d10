"""Made-up masks for a campaign under the policy of a target: shards with features and rivals, held-out ones beside.

Every image of 64 x 64 pixels holds three masks of each of four classes. Of the three the second often competes with
the first for the same object, and then at most one of them is correct. Features say what group of masks one belongs to,
and groups are more or less pure, as clusters are.
"""

from __future__ import annotations

import numpy as np

from campaign.derived.heldout import heldout
from campaign.store import Store
from ml_backend.predictions import Predictions

SIDE, PLACE, WIDTH = 64, 16, 12  # pixels: of an image, of the raster of places in it, of a mask
OF_IMAGE, CLASSES = 3, 4  # masks of a class in an image, and its classes
RIVALS = 0.3  # of the images: the second mask of a class is a rival of the first
FEATURES = 32
ROWS = 1 << 16  # masks of one shard
HELDOUT_FROM = 1 << 30  # the first held-out image


def rival_rows(n: int, class_id: int) -> np.ndarray:
    """Which of n masks of a class, in order, are rivals of the one before, (n,) bool."""
    rng = np.random.default_rng((class_id, 7))
    own = np.arange(n) % OF_IMAGE == 1
    return own & np.repeat(rng.random(n // OF_IMAGE + 1) < RIVALS, OF_IMAGE)[:n]


def without_second(correct: np.ndarray, class_id: int) -> np.ndarray:
    """What is correct, (n,) bool, when rivals of correct masks are not."""
    correct = correct.copy()
    rivals = np.flatnonzero(rival_rows(len(correct), class_id))
    correct[rivals] &= ~correct[rivals - 1]
    return correct


def made_up(
    class_id: int, quality: np.ndarray, correct: np.ndarray, score: np.ndarray, rng: np.random.Generator, first: int
) -> Predictions:
    """n masks of a class: `quality` (n,) of their groups, whether `correct` (n,), scores (n,), the `first` image."""
    from pycocotools import mask as mask_util

    n = len(correct)
    row = np.arange(n)
    rival = rival_rows(n, class_id)
    place = class_id % CLASSES * OF_IMAGE + np.where(rival, 0, row % OF_IMAGE)
    box = np.stack([place % 4 * PLACE + rival, place // 4 * PLACE, np.full(n, WIDTH), np.full(n, WIDTH)], axis=1)
    kinds, of = np.unique(box, axis=0, return_inverse=True)
    encoded = np.empty(len(kinds), object)
    for i, (x, y, w, h) in enumerate(kinds.tolist()):
        mask = np.zeros((SIDE, SIDE), np.uint8, order="F")
        mask[y : y + h, x : x + w] = 1
        encoded[i] = mask_util.encode(mask)["counts"]
    in_class = (n + OF_IMAGE - 1) // OF_IMAGE
    image = first + (class_id - 1) // CLASSES * in_class + row // OF_IMAGE
    axis = np.random.default_rng((class_id, 9)).normal(0, 0.6, FEATURES)  # along which good groups lie
    told = np.log(quality / (1 - quality))[:, None] * axis
    features = told + np.where(correct, 0.15, -0.15)[:, None] + rng.normal(0, 1.0, (n, FEATURES))
    return Predictions(
        np.zeros(n, np.int64), image, np.full(n, class_id, np.int32), box.astype(np.float32),
        encoded[of.reshape(-1)], np.full((n, 2), SIDE, np.int32), score.astype(np.float32),
        np.clip(score + rng.normal(0, 0.05, n), 0.01, 0.99).astype(np.float32), features.astype(np.float16),
    )  # fmt: skip


def group_quality(n: int, rng: np.random.Generator) -> np.ndarray:
    """The quality of the group of each of n masks, (n,): groups of about 50 follow each other."""
    quality = np.clip(rng.beta(0.6, 0.5, size=max(1, n // 50)), 0.02, 0.98)
    return quality[np.sort(rng.integers(0, len(quality), n))]


def scores(quality: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Scores of masks by the quality of their groups, (n,) float32."""
    return np.clip(0.25 + 0.6 * quality + rng.normal(0, 0.08, len(quality)), 0.01, 0.99).astype(np.float32)


def heldout_masks(classes: list[int], each: int) -> tuple[Predictions, np.ndarray]:
    """So many held-out masks of each class, by class, and their true IoU, (h,)."""
    parts, ious = [], []
    for class_id in classes:
        rng = np.random.default_rng((class_id, 8))
        quality = group_quality(each, rng)
        correct = without_second(rng.random(each) < quality, class_id)
        parts.append(made_up(class_id, quality, correct, scores(quality, rng), rng, HELDOUT_FROM))
        ious.append(np.where(correct, 0.75 + 0.24 * rng.beta(2, 1.5, each), 0.749 * rng.beta(1.5, 1.0, each)))
    return Predictions.concatenate(parts), np.concatenate(ious).astype(np.float32)


def save_masks(store: Store, masks: Predictions, split: str) -> np.ndarray:
    """Stores masks as shards of round 1; returns their ids."""
    ids = [
        store.masks.save_shard(1, split, n, masks.select(slice(start, start + ROWS)), 1, 0.0).mask_id  # type: ignore[arg-type]
        for n, start in enumerate(range(0, len(masks), ROWS))
    ]
    return np.concatenate(ids) if ids else np.zeros(0, np.int64)


def keep_heldout(store: Store, ids: np.ndarray, masks: Predictions, iou: np.ndarray) -> None:
    """Keeps what production works out by matching held-out masks with true ones, so that none need be made up."""
    view = heldout(store)
    view.of_round(1)
    version = view._known.pop(1)[0]
    order = np.argsort(ids)
    columns = {"mask_id": ids[order], "class_id": masks.class_id[order], "image_id": masks.image_id[order]}
    store.views.keep("gold/1", version, columns | {"iou": iou[order]})
