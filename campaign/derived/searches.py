"""The searches of a round, one view for each class: kept up with the facts, and decided as far as they settle it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from campaign.records.decision import Kind
from campaign.records.verdict import Verdict
from campaign.search.policies import AnnotatorQuality, make_policy
from campaign.search.policies.overridden import LEAD_RULE, overridden
from campaign.search.policies.prior import Prior
from campaign.search.thresholds import Thresholds
from campaign.search.tree_search import Search
from campaign.store import Store
from campaign.store import models as m

FORM = 1  # of snapshots; another form is worked out anew


@dataclass(frozen=True)
class Rules:
    """All that a class's decisions depend on beside its tree and its facts."""

    policy: str
    n_s: int
    k_a: float
    annotators: AnnotatorQuality
    overrides: tuple[tuple[int, str], ...]
    thresholds: Thresholds
    seed: int

    @classmethod
    def of(
        cls, store: Store, entry: m.ClassTree, annotators: AnnotatorQuality, overrides: Mapping[int, str] | None = None
    ) -> Rules:
        """The rules of one class's tree; `overrides` stand in for the stored ones, to see what others would lead to."""
        kinds = store.overrides.standing(entry.round, entry.class_id) if overrides is None else overrides
        kept, search = entry.thresholds, store.settings.search
        prior = Prior(**kept["prior"]) if kept.get("prior") else None
        thresholds = Thresholds(kept["k_pr"], kept["k_pa"], prior=prior)
        standing = tuple(sorted((int(c), str(k)) for c, k in kinds.items()))
        if search.policy == "target":  # what a search of it keeps does not depend on how often annotators err
            annotators = AnnotatorQuality()
        return cls(search.policy, search.n_s, search.k_a, annotators, standing, thresholds, store.settings.seed)

    @cached_property
    def version(self) -> str:
        """Names these rules: the same ones always have the same name."""
        text = json.dumps([FORM, asdict(self)], sort_keys=True, default=str)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def search(self, store: Store, entry: m.ClassTree, state: Mapping[str, np.ndarray] | None = None) -> Search:
        """A search under these rules: a fresh one, or the one that `state` was taken of."""
        tree, _ = store.trees.read(entry.round, entry.class_id, entry.generation)
        policy = make_policy(self.policy, self.n_s, self.k_a, annotators=self.annotators)
        policy = overridden(policy, dict(self.overrides))
        if state is not None:
            return Search.restore(tree, policy, self.thresholds, self.seed, state)
        return Search(tree, policy, self.thresholds, self.seed)


class ClassView:
    """The search of one class in one round, with the mask id of each leaf.

    It has taken in all questions and verdicts that were recorded, and decided what they settle. `changed`: there is
    something that is not saved yet.
    """

    def __init__(
        self, store: Store, entry: m.ClassTree, rules: Rules, search: Search, saved: int | None = None,
        file: str | None = None,
    ):  # fmt: skip
        self.store, self.entry, self.rules, self.search = store, entry, rules, search
        self.file = file  # the snapshot that holds the view as it was when it was opened or saved last
        self.mask_ids = store.trees.mask_ids(entry.round, entry.class_id, entry.generation)
        self.saved = saved  # decisions that the store has already; None where it may have others
        self.changed = saved is None
        rising = len(self.mask_ids) < 2 or bool((self.mask_ids[1:] > self.mask_ids[:-1]).all())
        self._sorted = self.mask_ids if rising else np.sort(self.mask_ids)
        self._order = None if rising else np.argsort(self.mask_ids, kind="stable")
        self._summary: dict[str, Any] | None = None

    @property
    def class_id(self) -> int:
        """The class that is searched."""
        return self.entry.class_id

    @property
    def round_number(self) -> int:
        """The round whose tree is searched."""
        return self.entry.round

    # masks and leaves

    def leaf(self, mask_id: int) -> int | None:
        """The leaf of a mask, None where it is not in this tree."""
        place = int(np.searchsorted(self._sorted, mask_id))
        if place == len(self._sorted) or self._sorted[place] != mask_id:
            return None
        return place if self._order is None else int(self._order[place])

    def mask(self, leaf: int) -> int:
        """The mask id of a leaf."""
        return int(self.mask_ids[leaf])

    # the fold

    def take(self, asked: Iterable[int], verdicts: Mapping[int, Verdict | None]) -> None:
        """Takes in masks that were asked about, and what is now known of masks; None where nothing is known any more.

        A verdict that was changed or withdrawn folds this class anew, from what is known of it.
        """
        leaves = [leaf for mask in asked if (leaf := self.leaf(mask)) is not None and not self.search.was_asked(leaf)]
        known = {leaf: v for mask, v in verdicts.items() if (leaf := self.leaf(mask)) is not None}
        new = {leaf: v for leaf, v in known.items() if v != self.search.verdict(leaf)}
        if not leaves and not new:
            return
        self.changed, self._summary = True, None
        if any(self.search.verdict(leaf) is not None for leaf in new):
            facts = self.search.verdicts | {leaf: v for leaf, v in new.items()}
            self._refold({leaf: v for leaf, v in facts.items() if v is not None}, leaves)
            return
        self.search.asked(leaves)
        for leaf, verdict in sorted(new.items()):
            if verdict is not None:
                self.search.answer(leaf, verdict)
        self.search.catch_up()

    def follow(self, rules: Rules) -> None:
        """Folds the class anew under other rules; under the same ones it stays as it is."""
        if rules != self.rules:
            self.rules, self.changed = rules, True
            self._refold(dict(self.search.verdicts))

    def _refold(self, facts: Mapping[int, Verdict], also_asked: Collection[int] = ()) -> None:
        self._summary = None
        asked = self.search.asked_leaves()
        self.search = self.rules.search(self.store, self.entry)
        self.search.asked([*asked, *also_asked])
        for leaf, verdict in sorted(facts.items()):
            self.search.answer(leaf, verdict)
        self.search.catch_up()
        self.saved = None

    # what it says

    def kept_decisions(self, after: int = 0) -> list[dict[str, Any]]:
        """The decisions that are stored, of those from number `after` on.

        Of the decisions that the mean score alone makes, only rejected clusters are stored, not the thousands of splits
        and single masks: they follow from the tree and the thresholds, which are stored too.
        """
        size = self.search.tree.size
        return [
            asdict(d) | {"kind": str(d.kind), "size": int(size[d.cluster])}
            for d in self.search.decisions[after:]
            if d.asked or d.rule.startswith(LEAD_RULE) or (d.kind == Kind.REJECT and size[d.cluster] > 1)
        ]

    def summary(self) -> dict[str, Any]:
        """The view in figures: questions asked, answered and open, clusters decided, masks obtained so far."""
        if self._summary is None:
            search = self.search
            silent = self.rules.policy == "target"  # no cluster waits for answers, the selection does for all of them
            self._summary = {
                "asked": search.questions,
                "answered": len(search.verdicts),
                "open": search.questions - len(search.verdicts) if silent else search.outstanding,
                "wished": sum(case.unasked for case in search.cases.values()),
                "masks": self._obtained(),
                "clusters": dict(Counter(str(d.kind) for d in search.decisions if d.asked)),
            }
        return self._summary

    def _obtained(self) -> int:
        """How many masks the decisions and votes bring in, duplicates included."""
        tree, verdicts = self.search.tree, self.search.verdicts
        voted = np.sort(np.asarray(tree.start[list(verdicts)], np.int64))
        accepted = [d.cluster for d in self.search.decisions if d.kind == Kind.ACCEPT]
        start, size = np.asarray(tree.start)[accepted], np.asarray(tree.size)[accepted]
        inside = np.searchsorted(voted, start + size) - np.searchsorted(voted, start)
        return int(size.sum() - inside.sum()) + sum(v == Verdict.YES for v in verdicts.values())
