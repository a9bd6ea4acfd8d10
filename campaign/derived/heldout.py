"""Held-out predictions with their IoU with the true masks: what is known of gold, whoever answers it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from campaign.quality.measures import is_near
from campaign.store import Store
from ml_backend.mask_ids import is_heldout, round_of

FORM = 2  # of snapshots; another form is worked out anew


class HeldoutMasks:
    """The held-out predictions of every round, kept as a snapshot each and in memory while they are the same."""

    def __init__(self, store: Store):
        self.store = store
        self._known: dict[int, tuple[str, dict[str, np.ndarray]]] = {}

    def of_round(self, number: int) -> dict[str, np.ndarray]:
        """Columns `mask_id` (ascending), `class_id`, `image_id` and `iou` (n,); empty where nothing is held out."""
        shards = self.store.masks.shards(number, "heldout")
        parts = repr([FORM, *((s.number, s.masks) for s in shards)])
        version = hashlib.blake2b(parts.encode(), digest_size=16).hexdigest()
        if number not in self._known or self._known[number][0] != version:
            empty = {name: np.zeros(0, np.int64) for name in ("mask_id", "class_id", "image_id")}
            columns = self._columns(number, version) if shards else empty | {"iou": np.zeros(0, np.float32)}
            self._known[number] = version, columns
        return self._known[number][1]

    def ious(self, masks: Iterable[int]) -> np.ndarray:
        """The IoU of each of these masks, NaN where it is none of the held-out predictions."""
        ids = np.asarray(list(masks), np.int64)
        found = np.full(len(ids), np.nan, np.float32)
        heldout = is_heldout(ids) if len(ids) else np.zeros(0, bool)
        for number in np.unique(round_of(ids[heldout])).tolist():
            columns = self.of_round(number)
            if not len(columns["mask_id"]):
                continue
            here = np.flatnonzero(heldout & (round_of(ids) == number))
            places = np.minimum(np.searchsorted(columns["mask_id"], ids[here]), len(columns["mask_id"]) - 1)
            same = columns["mask_id"][places] == ids[here]
            found[here[same]] = columns["iou"][places[same]]
        return found

    def near(self, masks: Iterable[int]) -> np.ndarray:
        """Which of these masks lie so near to `k_iou` that they show where eyes cut and no carelessness."""
        return is_near(self.ious(masks), self.store.settings.search.k_iou)  # NaN is not

    def _columns(self, number: int, version: str) -> dict[str, np.ndarray]:
        if (kept := self.store.views.kept(f"gold/{number}", version)) is not None:
            return kept
        from ml_backend.learning.evaluation import true_iou

        predictions = self.store.masks.predictions(number, "heldout", features=False)
        iou = true_iou(predictions, self.store.images.annotated("heldout"), one_to_one=False)
        order = np.argsort(predictions.mask_id, kind="stable")
        columns = {
            "mask_id": predictions.mask_id[order], "class_id": predictions.class_id[order],
            "image_id": predictions.image_id[order], "iou": np.asarray(iou, np.float32)[order],
        }  # fmt: skip
        self.store.views.keep(f"gold/{number}", version, columns)
        return columns


def heldout(store: Store) -> HeldoutMasks:
    """The held-out predictions of a campaign."""
    known: HeldoutMasks = store.companions.setdefault(HeldoutMasks, HeldoutMasks(store))
    return known


def gold_ious(store: Store) -> dict[int, float]:
    """{mask id: IoU with the true mask} of every mask that may be gold: the held-out predictions of all rounds."""
    known: dict[int, float] = {}
    for row in store.rounds.all():
        columns = heldout(store).of_round(row.number)
        known.update(zip(columns["mask_id"].tolist(), columns["iou"].tolist(), strict=True))
    return known
