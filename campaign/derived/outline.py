"""The dataset in outline: how many masks came together, and on what they rest, without looking at any mask.

Of rounds that ended the stored datasets are read once, a few columns of them, and what was found is kept. Of the
running round the decisions of the last turn and the verdicts say it; there masks of the same object are not dropped
yet. Under the policy of a target it is what the last turn found delivered.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from campaign.derived.answers import counted_verdicts
from campaign.derived.delivery import delivered, work_out
from campaign.derived.groups import (
    GROUP,
    NO_CLUSTER,
    NO_MASK,
    Outline,
    ended,
    from_lists,
    running_round,
    stored_columns,
)
from campaign.derived.live import live, steady
from campaign.derived.promises import standing
from campaign.derived.selection import round_selection
from campaign.records.decision import Kind
from campaign.records.verdict import Verdict
from campaign.search.selection import NONE
from campaign.store import Store


def outline(store: Store) -> Outline:
    """The outline of the dataset as it stands; under the policy of a target as it stood after the last turn."""
    if store.settings.search.policy == "target":
        groups = (delivered(store) or {}).get("groups")
        return Outline(from_lists(work_out(store)["groups"] if groups is None else groups), False)
    running = running_round(store)
    now = np.zeros(0, GROUP) if running is None else steady(store, lambda: _of_views(store, running))
    return Outline(np.concatenate([ended(store), now, _voted_down(store)]), running is not None)


def is_obtained(store: Store, round_number: int, mask_ids: np.ndarray) -> np.ndarray:
    """Which of these predictions of a round are in the dataset, (n,) bool; as they stand, see `outline`."""
    return steady(store, lambda: _is_obtained(store, round_number, mask_ids))


def _is_obtained(store: Store, round_number: int, mask_ids: np.ndarray) -> np.ndarray:
    if store.settings.search.policy == "target":
        return np.isin(mask_ids, _delivered_ids(store, round_number))
    if round_number != running_round(store):
        columns = stored_columns(store, round_number, ("mask_id",))
        return np.isin(mask_ids, columns["mask_id"])
    found = np.zeros(len(mask_ids), bool)
    for one in _classes(store, round_number):
        place = np.minimum(np.searchsorted(one.mask_ids, mask_ids), len(one.mask_ids) - 1)
        rows = np.flatnonzero(np.asarray(one.mask_ids)[place] == mask_ids)
        if not len(rows):
            continue
        leaves = place[rows]
        verdict = dict(zip(one.leaves.tolist(), one.said.tolist(), strict=True))
        said = np.array([verdict.get(leaf, NONE) for leaf in leaves.tolist()])
        found[rows] = (said == Verdict.YES) | ((one.accepted_around(leaves) >= 0) & (said == NONE))
    return found


def _voted_down(store: Store) -> np.ndarray:
    """Masks of stored datasets that an audit's answers voted down since; each takes one away."""
    rows: list[tuple] = []
    for page_class, keys in _audit_pages(store).items():
        down = [i for i, v in counted_verdicts(store, keys).items() if v != Verdict.YES]
        if not down:
            continue
        for row in store.rounds.all():
            if row.number == running_round(store) or store.datasets.file(row.number) is None:
                continue
            gone = int(np.isin(stored_columns(store, row.number, ("mask_id",))["mask_id"], down).sum())
            rows += [(row.number, page_class, NO_CLUSTER, False, NO_MASK, -gone, 0, 0, 0.0, 0.0)] if gone else []
    return np.array(rows, GROUP)


def _audit_pages(store: Store) -> dict[int, list[str]]:
    return {c: keys for c in store.classes() if (keys := store.pages.drawn_of_class(c))}


# the running round


@dataclass(frozen=True)
class _Class:
    """A class of the running round: the k leaves that have a verdict, and its c accepted clusters by their place.

    `start` and `size` (c,) say where these lie in the drawn tree, `evidence` (c, 3) are their numbers, `asked`, `yes`.
    """

    class_id: int
    mask_ids: np.ndarray
    place: np.ndarray
    leaves: np.ndarray
    said: np.ndarray
    start: np.ndarray
    size: np.ndarray
    evidence: np.ndarray

    def accepted_around(self, leaves: np.ndarray) -> np.ndarray:
        """The accepted cluster that each of these leaves lies in, by its row, -1 where there is none."""
        at = np.asarray(self.place[leaves], np.int64)
        row = np.searchsorted(self.start, at, side="right") - 1
        return np.where((row >= 0) & (at < np.append(self.start + self.size, 0)[row]), row, -1)


def _classes(store: Store, number: int) -> Iterator[_Class]:
    """The classes of the running round, as the last turn decided and with the verdicts of now."""
    decided: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    for class_id, cluster, _, asked, yes in store.decisions.of_kind(number, Kind.ACCEPT):
        decided[class_id].append((cluster, asked, yes))
    views = live(store)
    for entry in store.trees.rows(number):
        if entry.masks:
            tree, mask_ids = store.trees.read(number, entry.class_id, entry.generation)
            evidence = np.array(decided[entry.class_id], np.int64).reshape(-1, 3)
            start, size = (np.asarray(column[evidence[:, 0]], np.int64) for column in (tree.start, tree.size))
            order = np.argsort(start, kind="stable")
            said = views.verdicts(number, entry.class_id)
            yield _Class(entry.class_id, mask_ids, tree.start, *said, start[order], size[order], evidence[order])


def _of_views(store: Store, number: int) -> np.ndarray:
    """Rows of `GROUP` of the running round, from the decisions and verdicts of its classes."""
    parts: list[np.ndarray] = [np.zeros(0, GROUP)]
    for one in _classes(store, number):
        yes, row = one.said == Verdict.YES, one.accepted_around(one.leaves)
        inside = row >= 0
        asked, voted = (np.bincount(row[which], minlength=len(one.start)) for which in (inside, inside & yes))
        rows = np.zeros(2 * len(one.start), GROUP)
        rows["cluster"], rows["asked"], rows["yes"] = np.repeat(one.evidence, 2, axis=0).T
        rows["voted"] = np.tile([False, True], len(one.start))
        rows["masks"] = np.stack([one.size - asked, voted], axis=1).reshape(-1)
        single = np.zeros(int((yes & ~inside).sum()), GROUP)
        single["cluster"], single["voted"], single["masks"] = NO_CLUSTER, True, 1
        single["mask"] = np.asarray(one.mask_ids)[one.leaves[yes & ~inside]]
        both = np.concatenate([rows[rows["masks"] > 0], single])
        both["round"], both["class_id"] = number, one.class_id
        both["chance"] = both["spread"] = np.nan
        parts.append(both)
    return np.concatenate(parts)


# the policy of a target


def _delivered_ids(store: Store, round_number: int) -> np.ndarray:
    """The predictions of a round that are delivered."""
    promised = standing(store)
    if promised is not None:
        return promised.mask_id
    if round_number != running_round(store):
        return stored_columns(store, round_number, ("mask_id",))["mask_id"]
    chosen = round_selection(store, round_number)
    return chosen.columns.mask_id[chosen.delivered]
