"""Masks that resemble one: its neighbours by feature in its class, in the other classes, and among known masks.

Known are the masks on held-out images, whose IoU with the true object stands beside them. Labelled images that the
detector learns from are not predicted on, so their masks have no features.

A class's tree is cut into cells, and each stands there as the mean of a few of its masks; only the masks of the nearest
cells are compared. Of a class of up to `COMPARED` masks that is all of them, and the neighbours are exact.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from campaign.clustering.cells import cells_of, nearest_cells, standing_for
from campaign.derived.columns import FeatureRows
from campaign.derived.heldout import heldout
from campaign.store import Store
from campaign.store import models as m
from ml_backend.mask_ids import is_drawn, round_of

FORM = "1"  # of the cells that are kept
COMPARED = 5000  # masks of a class, or of all the others, that a mask is compared with, at least
KNOWN = 20_000  # known masks of a class, at most


@dataclass(frozen=True)
class Neighbour:
    """A mask, its class, its distance in feature space, and, of a known mask, its IoU with the true object."""

    mask_id: int
    class_id: int
    distance: float
    iou: float | None = None


@dataclass(frozen=True)
class Resembling:
    """The neighbours of a mask, nearest first: of its own class, of the others, and known ones of its class.

    `compared` masks were looked at, of `masks` in the round's trees.
    """

    own: tuple[Neighbour, ...]
    others: tuple[Neighbour, ...]
    known: tuple[Neighbour, ...]
    compared: int
    masks: int


@dataclass(frozen=True)
class _Cells:
    """The cells of one `generation` of a class's tree: k clusters, their sizes, and what stands for each, (k, d)."""

    class_id: int
    generation: int
    cluster: np.ndarray
    size: np.ndarray
    centre: np.ndarray


def resembling(store: Store, mask_id: int, class_id: int, most: int) -> Resembling:
    """At most `most` neighbours of each kind, of a mask of that class. Raises KeyError where there is no such mask.

    A mask that was drawn by hand is compared by the prediction that it was; without features there are no neighbours.
    """
    origin = store.drawings.origins(np.array([mask_id]))[0] if is_drawn(mask_id) else mask_id
    feature = FeatureRows(store, np.array([origin], np.int64))[:]
    if not feature.shape[1]:
        return Resembling((), (), (), 0, 0)
    round_number, target = round_of(origin), feature[0].astype(np.float32)
    trees = [t for t in store.trees.rows(round_number) if t.masks]
    cells = [_cells(store, round_number, t) for t in trees]
    own = [c for c in cells if c.class_id == class_id]
    others = [c for c in cells if c.class_id != class_id]
    found, compared = [], 0
    for part in (own, others):
        ids, classes = _candidates(store, round_number, part, target)
        compared += len(ids)
        found.append(_nearest(store, target, ids, classes, most, (origin, mask_id)))
    known = heldout(store).of_round(round_number)
    here = np.flatnonzero(known["class_id"] == class_id)[:KNOWN]
    near = _nearest(store, target, known["mask_id"][here], known["class_id"][here], most, (origin,), known["iou"][here])
    return Resembling(found[0], found[1], near, compared + len(here), sum(t.masks for t in trees))


def _candidates(
    store: Store, round_number: int, cells: list[_Cells], target: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(ids, classes) of the masks in the nearest cells of some classes together."""
    if not cells:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    size = np.concatenate([c.size for c in cells])
    of = np.repeat(np.arange(len(cells)), [len(c.size) for c in cells])
    place = np.concatenate([np.arange(len(c.size)) for c in cells])
    chosen = nearest_cells(np.concatenate([c.centre for c in cells]), size, target, COMPARED)
    ids, classes = [], []
    for n in np.unique(of[chosen]).tolist():
        tree, mask_ids = store.trees.read(round_number, cells[n].class_id, cells[n].generation)
        leaves = np.concatenate([tree.members(int(cells[n].cluster[p])) for p in place[chosen[of[chosen] == n]]])
        ids.append(np.asarray(mask_ids)[leaves])
        classes.append(np.full(len(leaves), cells[n].class_id))
    return np.concatenate(ids), np.concatenate(classes)


def _nearest(
    store: Store, target: np.ndarray, ids: np.ndarray, classes: np.ndarray, most: int, without: Collection[int],
    iou: np.ndarray | None = None,
) -> tuple[Neighbour, ...]:  # fmt: skip
    """The nearest of these masks, those `without` left out."""
    kept = ~np.isin(ids, list(without))
    ids, classes, iou = ids[kept], classes[kept], None if iou is None else iou[kept]
    if not len(ids):
        return ()
    distance = np.linalg.norm(FeatureRows(store, ids)[:].astype(np.float32) - target, axis=1)
    order = np.argsort(distance, kind="stable")[:most].tolist()
    return tuple(
        Neighbour(int(ids[i]), int(classes[i]), float(distance[i]), None if iou is None else float(iou[i]))
        for i in order
    )


def _cells(store: Store, round_number: int, entry: m.ClassTree) -> _Cells:
    """The cells of a class, worked out once for each of its trees and kept."""
    class_id = entry.class_id
    name = f"cells/{round_number}/{class_id}"
    version = hashlib.blake2b(repr((FORM, store.key, entry.masks)).encode(), digest_size=16).hexdigest()
    arrays = store.views.kept(name, version)
    if arrays is None:
        tree, mask_ids = store.trees.read(round_number, class_id, entry.generation)
        cells = cells_of(tree)
        leaves = standing_for(tree, cells)
        features = FeatureRows(store, np.asarray(mask_ids)[leaves.reshape(-1)])[:]
        centre = features.reshape(*leaves.shape, -1).mean(1, dtype=np.float32).astype(np.float16)
        arrays = {"cluster": cells, "size": np.asarray(tree.size)[cells], "centre": centre}
        store.views.keep(name, version, arrays)
    return _Cells(class_id, entry.generation, **arrays)
