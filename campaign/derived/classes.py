"""Targets of every class by itself: of which class masks are, what was frozen of each, and how it stands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from campaign.certification.classes import ClassOrders, ClassPromise
from campaign.certification.promise import Frozen, Voted
from campaign.derived.columns import column_of
from campaign.search.selection import PerClass
from campaign.store import Store
from ml_backend.mask_ids import is_drawn


def classes_of(store: Store, mask_ids: np.ndarray) -> np.ndarray:
    """The class of each mask, (n,) int64, −1 of unknown ones; one drawn by hand has that of the mask it was."""
    ids = np.array(mask_ids, np.int64)
    drawn = is_drawn(ids)
    if drawn.any():
        ids[drawn] = store.drawings.origins(ids[drawn])
    return column_of(store, ids, "class_id")


def target_per_class(store: Store, class_id: np.ndarray) -> PerClass | None:
    """The target of every class where the lead set one, for masks of these classes (n,)."""
    target = store.settings.search.precision_per_class
    return None if target is None else PerClass(class_id, target)


def frozen_classes(
    store: Store, frozen: np.ndarray, others: np.ndarray, kept: np.ndarray, heldout_class: np.ndarray | None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(columns, facts) to be stored with an order; both empty where classes have no target of their own.

    By mask id: the `frozen` ones (n,), `others` that are delivered if voted yes (m,), and those voted yes and `kept`.
    """
    target = store.settings.search.precision_per_class
    if target is None:
        return {}, {}
    class_id, other_class, of_kept = (classes_of(store, ids) for ids in (frozen, others, kept))
    classes, counts = np.unique(of_kept, return_counts=True)
    ids = np.unique(np.concatenate([class_id, other_class, of_kept]))
    facts = {
        "target": target, "ids": ids.tolist(),
        "voted": [[int(c), int(n)] for c, n in zip(classes, counts, strict=True)],
    }  # fmt: skip
    columns = {"class_id": class_id, "other_class": other_class}
    if heldout_class is not None:
        columns["heldout_class"] = heldout_class
    return columns, {"per_class": facts}


def class_orders(order: Frozen, class_id: np.ndarray, facts: Mapping[str, Any]) -> ClassOrders:
    """What was frozen of classes, from what was stored of it."""
    voted = {int(c): int(n) for c, n in facts["voted"]}
    return ClassOrders(order, class_id, facts["target"], tuple(facts["ids"]), voted)


def voted_by_class(unseen: np.ndarray, of_unseen: np.ndarray, gone: np.ndarray, added: np.ndarray) -> dict[int, Voted]:
    """What is delivered besides, by class: the classes of masks voted yes (m,), of those gone and of those added."""
    ids = np.unique(np.concatenate([of_unseen, gone, added]))
    return {
        c: Voted(unseen[of_unseen == c], int((gone == c).sum()), int((added == c).sum()))
        for c in ids.tolist()
    }  # fmt: skip


def as_dict(promise: ClassPromise) -> dict[str, Any]:
    """For programs: what is promised of a class. A bound is claimed only where the target is met."""
    return {
        "masks": promise.masks,
        "target": promise.target,
        "met": promise.met,
        "precision_at_least": promise.target if promise.met else None,
        "draws": promise.draws,
        "missing": missing(promise),
    }


def class_line(figures: Mapping[str, Any]) -> str:
    """What `as_dict` has of a class in a line, for the report and the command line."""
    if figures["met"]:
        return f"{figures['masks']} masks, of which {figures['target']:g} or more are correct"
    return f"{figures['masks']} masks; {figures['missing']}"


def missing(promise: ClassPromise) -> str | None:
    """What is missing to a class's target, None where it is met."""
    if promise.met:
        return None
    short = f"that {promise.target:g} of its {promise.masks} masks are correct is not certain"
    if promise.needed is None:
        return f"{short}, and no further answers would make it so"
    more = f"{short}; about {promise.needed} masks more are to be drawn"
    return more if promise.worth else f"{more}, which is more than that is worth"
