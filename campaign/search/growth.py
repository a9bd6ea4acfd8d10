"""When the verifier's trees are grown anew on answers: class by class, a few at a time.

To grow trees takes a class about as long as everything else in a turn, and they gain little from a few more answers. So
classes whose held-out masks are enough for trees of their own are grown by their own answers, all others together by
theirs, and at every fit only those that have most answers: no turn grows them all.
"""

from __future__ import annotations

import numpy as np

from campaign.search.verifier import growth_milestone, milestones_until, stands_alone

SHARED = -1  # the group of all classes without trees of their own
MOST_AT_ONCE = 2  # groups that one fit grows


def own_groups(class_id: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """The classes, rising, that have trees of their own by held-out masks alone: their class and whether correct, (h,).

    Where there is one class only, it is the shared group.
    """
    classes = np.unique(class_id)
    if len(classes) < 2:
        return np.zeros(0, np.int64)
    return np.array([c for c in classes.tolist() if stands_alone(correct[class_id == c])], np.int64)


def groups_of(class_id: np.ndarray, own: np.ndarray) -> np.ndarray:
    """The group of each mask by its class, (n,): its class where that is among the `own` ones, else `SHARED`."""
    return np.where(np.isin(class_id, own), class_id, SHARED)


def in_group(class_id: np.ndarray, own: np.ndarray, group: int) -> np.ndarray:
    """Which masks, by their class, are of a group, (n,) bool."""
    return np.isin(class_id, own, invert=True) if group == SHARED else class_id == group


def growth_plan(group: np.ndarray) -> dict[int, int]:
    """{group: answers} that the trees of each group are to be grown on, the first so many of its own.

    `group` (a,) of all answers so far, in the order in which they came. Groups that are left out have the trees that
    were grown before any answer. The plan follows from the answers as they came, fit by fit.

    >>> growth_plan(np.zeros(299, int)), growth_plan(np.zeros(1426, int)), growth_plan(np.arange(1426) % 4)
    ({}, {0: 1200}, {0: 300, 1: 300})
    """
    grown: dict[int, int] = {}
    for known in milestones_until(len(group)):
        groups, counts = np.unique(group[:known], return_counts=True)
        most = sorted(zip((-counts).tolist(), groups.tolist(), strict=True))
        due = [(g, growth_milestone(-n)) for n, g in most if growth_milestone(-n) > grown.get(g, 0)]
        grown |= dict(due[:MOST_AT_ONCE])
    return grown
