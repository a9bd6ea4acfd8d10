"""Held-out images as the pool's would look: with the masks that the campaign would deliver, and what they lack."""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools import mask as mask_util

from campaign.quality.measures import stable_hash
from campaign.records.dataset_masks import DatasetMasks
from campaign.search.parts import cut, part_of
from campaign.store import Store
from ml_backend.masks.coco import Annotation
from ml_backend.masks.rle import decode_window
from ml_backend.predictions import Predictions

MATCHED = 0.5  # IoU from which on a mask shows the object
HIDDEN = 0.1  # share of an object under masks, up to which it has none
MOST_MISSING = 8  # known missing objects on one page


def delivered_alike(store: Store, masks: DatasetMasks) -> Predictions:
    """The held-out predictions of the newest round that has some, as many per image and class as the pool has masks.

    Those of the best scores, as the campaign's own are not known: held-out images are not searched.
    """
    number = next((r.number for r in reversed(store.rounds.all()) if store.masks.shards(r.number, "heldout")), None)
    if number is None:
        return Predictions.empty()
    predictions = store.masks.predictions(number, "heldout", features=False)
    share = store.images.count("heldout") / max(store.images.count("pool"), 1)
    kept = []
    for class_id in store.classes():
        rows = np.flatnonzero(predictions.class_id == class_id)
        count = round(float((masks.class_id == class_id).sum()) * share)
        kept.append(rows[np.argsort(-predictions.score[rows], kind="stable")][:count])
    return predictions.select(np.sort(np.concatenate(kept)))


class HeldoutParts:
    """Parts of the held-out images, and what a page of each shows: masks, and objects that are left without one."""

    def __init__(self, store: Store, masks: DatasetMasks):
        from ml_backend.learning.evaluation import true_iou

        truth = store.images.annotated("heldout")
        self.parts = cut(truth.images)
        alike = delivered_alike(store, masks)
        right = true_iou(alike, truth, one_to_one=False) >= MATCHED if len(alike) else np.zeros(0, bool)
        alike = alike.select(right)
        numbers = part_of(self.parts, alike.image_id, alike.box)
        self._masks = [alike.select(numbers == n) for n in range(len(self.parts))]
        self._true = truth.by_image()

    def shapes(self, number: int, seed: int) -> dict[str, Any] | None:
        """The `drawn`, `missing` and `doubtful` shapes of a part; None where it holds no object.

        Missing are objects that the campaign would not have, of all where they are few, and some whose mask is left
        out on purpose. The others get their true mask. Doubtful are objects cut off by the border or half covered:
        whoever clicks them is not wrong, and whoever does not neither.
        """
        window = [int(self.parts[number][name]) for name in ("x0", "y0", "x1", "y1")]
        everything = self._true.get(int(self.parts[number]["image_id"]), [])
        whole = np.array([_inside(a.rle, window) for a in everything])
        true = [a for a, inside in zip(everything, whole, strict=True) if inside >= 0.5]
        if not true:
            return None
        masks = self._masks[number]
        drawn = list(zip(masks.class_id.tolist(), masks.rles(), strict=True))
        cover = _cover(true, drawn)
        order = sorted(range(len(true)), key=lambda n: stable_hash(seed, n))
        missing = [n for n in order if cover[n].sum() <= HIDDEN][:MOST_MISSING]
        filled = [n for n in range(len(true)) if cover[n].sum() <= HIDDEN and n not in missing]
        kept = np.ones(len(drawn), bool)
        for n in order:
            if len(missing) > seed % 4:
                break
            # Left out on purpose, where its masks cover nothing else.
            own = np.flatnonzero(kept & (cover[n] > HIDDEN))
            others = np.delete(cover, n, axis=0)[:, own]
            left = cover[n][kept].sum() - cover[n][own].sum()
            if len(own) and left <= HIDDEN and not (others > HIDDEN).any():
                kept[own] = False
                missing.append(n)
        covered = np.array([cover[n][kept].sum() for n in range(len(true))])
        doubtful = [a for n, a in enumerate(true) if n not in missing and n not in filled and covered[n] < MATCHED]
        doubtful += [a for a, inside in zip(everything, whole, strict=True) if 0 < inside < 0.5]
        shown = [_shape(c, rle) for (c, rle), keep in zip(drawn, kept, strict=True) if keep]
        if not missing:
            return None
        return {
            "drawn": shown + [_shape(true[n].class_id, true[n].rle) for n in filled],
            "missing": [_shape(true[n].class_id, true[n].rle) for n in missing],
            "doubtful": [_shape(a.class_id, a.rle) for a in doubtful],
        }


def _inside(rle: dict, window: list[int]) -> float:
    """The share of a mask that lies in a part."""
    return float(decode_window(rle, *window).sum()) / max(float(mask_util.area(rle)), 1.0)


def _cover(true: list[Annotation], drawn: list[tuple[int, dict]]) -> np.ndarray:
    """The share of each true object under each drawn mask, of whatever class, (objects, masks)."""
    if not drawn:
        return np.zeros((len(true), 0))
    return np.asarray(mask_util.iou([a.rle for a in true], [rle for _, rle in drawn], [1] * len(drawn)))


def _shape(class_id: int, rle: dict) -> dict[str, Any]:
    counts = rle["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else counts
    return {"class_id": int(class_id), "size": [int(v) for v in rle["size"]], "counts": text}
