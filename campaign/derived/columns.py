"""What is known of a round's masks before anybody is asked, as columns: which compete, and what the verifier sees.

Worked out once for each round, all masks of its trees together, and kept: what a turn needs in one snapshot, what only
a new fit of the verifier needs in another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from campaign.derived.heldout import heldout
from campaign.search.rivals import COVERED, Overlaps, overlaps_of
from campaign.search.verifier import Projection, Rows, mask_inputs
from campaign.store import Store
from campaign.store.snapshots import Parts
from ml_backend.mask_ids import first_of_place, place_of, row_of
from ml_backend.predictions import Predictions

FORM = 1  # of snapshots; another form is worked out anew
_NAMES = "mask_id", "class_id", "image", "score", "first", "second"
PART = 1 << 16  # masks whose run lengths are in memory together


@dataclass(frozen=True)
class Columns:
    """The n masks of a round's trees, by mask id; `pairs` are rows of rivals. `version` names what they follow from.

    The columns lie on disk.
    """

    mask_id: np.ndarray
    class_id: np.ndarray
    image: np.ndarray
    score: np.ndarray
    pairs: tuple[np.ndarray, np.ndarray]
    version: str

    def __len__(self) -> int:
        return len(self.mask_id)

    def rows_of(self, mask_ids: np.ndarray) -> np.ndarray:
        """The rows of those of these masks that are in the round, (k,) int64."""
        if not len(self) or not len(mask_ids):
            return np.zeros(0, np.int64)
        place = np.minimum(np.searchsorted(self.mask_id, mask_ids), len(self) - 1)
        return place[self.mask_id[place] == mask_ids]


@dataclass(frozen=True)
class Inputs:
    """What the verifier sees of the masks of a round, (n,), and of its held-out masks, (h,), and the IoU of those."""

    pool: Rows
    heldout: Rows
    heldout_iou: np.ndarray


class RoundColumns:
    """The columns of every round, kept as snapshots and in memory while they are the same."""

    def __init__(self, store: Store):
        self.store = store
        self._known: dict[int, Columns] = {}

    def of_round(self, number: int) -> Columns:
        """The columns of a round; without any mask before its trees are built."""
        version = self.version(number)
        known = self._known.get(number)
        if known is None or known.version != version:
            while (arrays := self.store.views.kept(f"columns/{number}", version, mapped=_NAMES)) is None:
                self._work_out(number, version)
                version = self.version(number)
            pairs = arrays.pop("first"), arrays.pop("second")
            known = self._known[number] = Columns(**arrays, pairs=pairs, version=version)
        return known

    def inputs(self, number: int) -> Inputs:
        """What the verifier sees; that of the pool stays on disk, for it is large and seldom needed."""
        columns = self.of_round(number)
        while (arrays := self._kept_inputs(number, columns.version)) is None:  # or another process has kept newer ones
            self._known.pop(number, None)
            self._work_out(number, self.version(number))
            columns = self.of_round(number)
        known = Rows(*(arrays[f"heldout_{name}"] for name in ("inputs", "class_id", "image")))
        return Inputs(Rows(arrays["pool_inputs"], columns.class_id, columns.image), known, arrays["heldout_iou"])

    def _kept_inputs(self, number: int, version: str) -> dict[str, Any] | None:
        return self.store.views.kept(f"inputs/{number}", version, by_rows=["pool_inputs"])

    def version(self, number: int) -> str:
        """Names what the columns of a round follow from."""
        trees = [(t.class_id, t.masks) for t in self.store.trees.rows(number)]
        joining = self.store.trees.joining(number)
        shards = [
            (split, shard, masks)
            for split, shard, masks in self.store.masks.finished(number)
            if joining is None or split != "pool" or shard < joining  # the others are in no tree yet
        ]
        settings = self.store.settings
        text = repr((FORM, number, trees, shards, settings.seed, settings.rounds.dedupe_iou))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def _work_out(self, number: int, version: str) -> None:
        trees = [t for t in self.store.trees.rows(number) if t.masks]
        ids = [self.store.trees.mask_ids(number, t.class_id, t.generation) for t in trees]
        pool_ids = np.sort(np.concatenate(ids)) if ids else np.zeros(0, np.int64)
        del ids
        known = heldout(self.store).of_round(number)
        kept_out = self.store.masks.read(known["mask_id"])
        learned = self._projection(pool_ids)
        rows = self._seen(kept_out, overlaps_of(kept_out), learned)
        found: dict[str, list[np.ndarray]] = {name: [] for name in _NAMES}
        shape = len(pool_ids), rows.inputs.shape[1]
        arrays: dict[str, np.ndarray | Parts] = {
            "heldout_iou": known["iou"], "heldout_inputs": rows.inputs, "heldout_class_id": rows.class_id,
            "heldout_image": rows.image,
            "pool_inputs": Parts(shape, np.float32, self._of_pool(pool_ids, learned, found)),
        }  # fmt: skip
        self.store.views.keep(f"inputs/{number}", version, arrays)
        self.store.views.keep(f"columns/{number}", version, {name: np.concatenate(found.pop(name)) for name in _NAMES})

    def _of_pool(
        self, ids: np.ndarray, learned: Projection | None, found: dict[str, list[np.ndarray]]
    ) -> Iterator[np.ndarray]:
        """What the verifier sees of the masks of a round, one part after another, whose columns are put to `found`.

        Masks that compete are of one image, and an image is in one shard, so parts of whole shards say it all.
        """
        for start, end in _parts(ids):
            pool = self.store.masks.read(ids[start:end])
            overlaps = overlaps_of(pool)
            first, second = overlaps.rivals(self.store.settings.rounds.dedupe_iou, COVERED)
            parts: tuple[np.ndarray, ...] = (
                pool.mask_id, pool.class_id.astype(np.int64), pool.image_id.astype(np.int64),
                pool.score.astype(np.float32), first + start, second + start,
            )  # fmt: skip
            for name, part in zip(_NAMES, parts, strict=True):
                found[name].append(part)
            yield self._seen(pool, overlaps, learned).inputs

    def _seen(self, masks: Predictions, overlaps: Overlaps, learned: Projection | None) -> Rows:
        """What the verifier sees of masks."""
        components = None if learned is None else learned.apply(FeatureRows(self.store, masks.mask_id))  # type: ignore[arg-type]
        return mask_inputs(masks, overlaps, components)

    def _projection(self, pool_ids: np.ndarray) -> Projection | None:
        """The leading components of the pool's features; None where there are no features."""
        features = FeatureRows(self.store, pool_ids)
        if len(pool_ids) < 2 or not features.width:
            return None
        return Projection.learn(features, self.store.settings.seed)  # type: ignore[arg-type]


def _parts(ids: np.ndarray) -> Iterator[tuple[int, int]]:
    """Rows [start, end) of masks, which rise: whole shards together, `PART` masks or somewhat more."""
    ends = np.append(np.flatnonzero(np.diff(place_of(ids))) + 1, len(ids))
    start = 0
    while True:
        end = int(ends[min(int(np.searchsorted(ends, start + PART)), len(ends) - 1)])
        yield start, end
        if end == len(ids):
            return
        start = end


class FeatureRows:
    """The features of predicted masks, (n, d), read from their shards as asked for: all of them need not fit memory."""

    def __init__(self, store: Store, mask_ids: np.ndarray):
        self.store, self.place, self.row = store, place_of(mask_ids), row_of(mask_ids)
        self.width = self._shard(int(self.place[0])).shape[1] if len(mask_ids) else 0

    def __len__(self) -> int:
        return len(self.place)

    def __getitem__(self, index: np.ndarray | slice) -> np.ndarray:
        place, row = self.place[index], self.row[index]
        found = np.empty((len(place), self.width), np.float16)
        for here in np.unique(place).tolist():
            own = place == here
            found[own] = self._shard(here)[row[own]]
        return found

    def _shard(self, place: int) -> np.ndarray:
        return self.store.masks.features(self.store.masks.place(first_of_place(place))[0])


def round_columns(store: Store) -> RoundColumns:
    """The columns of a campaign's rounds."""
    known: RoundColumns = store.companions.setdefault(RoundColumns, RoundColumns(store))
    return known


def column_of(store: Store, mask_ids: np.ndarray, name: str) -> np.ndarray:
    """A column of whole numbers, `class_id` or `image`, of predictions of any rounds, (n,); -1 of masks of no tree."""
    found = np.full(len(mask_ids), -1, np.int64)
    for row in store.rounds.all():
        columns = round_columns(store).of_round(row.number)
        here = np.flatnonzero(np.isin(mask_ids, columns.mask_id))
        found[here] = getattr(columns, name)[np.searchsorted(columns.mask_id, mask_ids[here])]
    return found
