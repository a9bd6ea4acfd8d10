"""The masks of a cluster that have a verdict, and some of the others, without walking through the cluster."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from campaign.derived.answers import counted_verdicts
from campaign.derived.live import live
from campaign.records.verdict import Verdict
from campaign.search.sampling import draw_keys
from campaign.store import Store

if TYPE_CHECKING:
    from campaign.clustering import Tree

DRAWN_FROM = 5000  # masks of a cluster from which those without a verdict are drawn, at most


class ClusterMasks:
    """The tree of one class in one round with what is known of its masks."""

    def __init__(self, store: Store, round_number: int, class_id: int, generation: int | None = None):
        self.store, self.round_number, self.class_id = store, round_number, class_id
        self.tree: Tree
        self.tree, self.mask_ids = store.trees.read(round_number, class_id, generation)

    def leaf(self, mask_id: int) -> int | None:
        """The leaf of a mask, None where it is not in this tree: the dataset knew it, or another class has it."""
        place = int(np.searchsorted(self.mask_ids, mask_id))  # of rising ids, as nearly all trees have them
        if place < len(self.mask_ids) and self.mask_ids[place] == mask_id:
            return place
        leaves = np.flatnonzero(np.asarray(self.mask_ids) == mask_id)
        return int(leaves[0]) if len(leaves) else None

    def mask(self, leaf: int) -> int:
        """The mask id of a leaf."""
        return int(self.mask_ids[leaf])

    @cached_property
    def verdicts(self) -> dict[int, Verdict]:
        """{leaf: verdict} of the masks that have one, in the order of the drawn tree."""
        leaves, said = live(self.store).verdicts(self.round_number, self.class_id)
        known = dict(zip(leaves.tolist(), said.tolist(), strict=True)) | self._elsewhere()
        at = np.fromiter(known, np.int64, len(known))
        order = np.argsort(self.tree.start[at], kind="stable")
        return {leaf: Verdict(known[leaf]) for leaf in at[order].tolist()}

    def _elsewhere(self) -> dict[int, int]:
        """{leaf: verdict} by pages of audits and promises."""
        keys = self.store.pages.drawn_of_class(self.class_id)
        said = counted_verdicts(self.store, keys) if keys else {}
        known = ((self.leaf(mask), int(verdict)) for mask, verdict in said.items())
        return {leaf: verdict for leaf, verdict in known if leaf is not None}

    @cached_property
    def _asked(self) -> tuple[np.ndarray, np.ndarray]:
        """The leaves that have a verdict, and where they lie in the drawn tree, rising."""
        leaves = np.fromiter(self.verdicts, np.int64, len(self.verdicts))
        return leaves, np.asarray(self.tree.start[leaves], np.int64)

    def asked(self, cluster: int) -> np.ndarray:
        """The leaves of a cluster that have a verdict."""
        leaves, at = self._asked
        start = int(self.tree.start[cluster])
        first, end = np.searchsorted(at, [start, start + int(self.tree.size[cluster])])
        return leaves[first:end]

    def unasked(self, cluster: int) -> list[int]:
        """Leaves of a cluster without a verdict in an order drawn by chance: all, or of a large one so many."""
        members, seed = self.tree.members(cluster), self.store.settings.seed
        if len(members) > DRAWN_FROM:
            places = np.random.default_rng((seed, cluster)).integers(0, len(members), DRAWN_FROM)
            members = members[np.unique(places)]
        leaves = np.asarray(members)
        order = np.argsort(draw_keys(seed, cluster, leaves), kind="stable")
        return [leaf for leaf in leaves[order].tolist() if leaf not in self.verdicts]


def spread(values: Collection[int], most: int) -> list[int]:
    """At most so many of the values, evenly from the first to the last."""
    kept = list(values)
    if len(kept) <= most:
        return kept
    return [kept[i] for i in np.linspace(0, len(kept) - 1, most).round().astype(int)] if most > 0 else []
