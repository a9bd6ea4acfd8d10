"""Deciding a cluster otherwise: what would change, and then the change itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from campaign.dataset.propagation import propagate
from campaign.derived.answers import counted_verdicts
from campaign.derived.dataset import obtained, standing_masks
from campaign.derived.live import live
from campaign.derived.searches import ClassView
from campaign.derived.spending import round_budget
from campaign.records.decision import Kind
from campaign.records.stage import Stage
from campaign.records.verdict import Verdict
from campaign.search.tree_search import Search
from campaign.store import Store
from campaign.store import models as m
from ml_backend.errors import InputError

KINDS = tuple(kind.value for kind in Kind)


@dataclass(frozen=True)
class Difference:
    """A cluster whose decision changes; None where there is no decision."""

    cluster: int
    size: int
    before: str | None
    after: str | None


@dataclass(frozen=True)
class Change:
    """What follows from deciding a cluster otherwise.

    `gained` and `lost` count masks of the dataset, `questions` masks to be asked about next. `later` are rounds that
    were trained and clustered with the old decision, and stay. `reopens`: the round was over and goes on.
    """

    differences: tuple[Difference, ...]
    gained: int
    lost: int
    questions: int
    later: int
    reopens: bool

    @property
    def is_empty(self) -> bool:
        """Nothing changes."""
        return not (self.differences or self.gained or self.lost or self.questions)


def foresee(store: Store, round_number: int, class_id: int, cluster: int, kind: str | None) -> Change:
    """What would change if a cluster were decided as `kind`, or None: as the policy decides. Nothing is stored."""
    view = _view(store, round_number, class_id, cluster, kind)
    now = dict(view.rules.overrides)
    wanted = {c: k for c, k in (now | {cluster: kind}).items() if k is not None}
    before, after = live(store).imagined(view, now), live(store).imagined(view, wanted)
    old, new = ({d.cluster: str(d.kind) for d in s.decisions} for s in (before, after))
    size = before.tree.size
    changed = sorted((c for c in old.keys() | new.keys() if old.get(c) != new.get(c)), key=lambda c: -size[c])
    masks_before, masks_after = (_masks(store, view, s) for s in (before, after))
    questions = _questions(store, round_number, after)
    return Change(
        tuple(Difference(c, int(size[c]), old.get(c), new.get(c)) for c in changed),
        len(masks_after - masks_before),
        len(masks_before - masks_after),
        questions,
        sum(r.number > round_number for r in store.rounds.all()),
        _may_reopen(store, round_number) and questions > 0,
    )


def decide(
    store: Store, round_number: int, class_id: int, cluster: int, kind: str | None, name: str, generation: int = 0
) -> None:
    """Stores the lead's decision as a fact, and recomputes the decisions and the dataset that follow from it.

    The newest round goes on where that leaves questions to ask; the next turn publishes them. Raises InputError where
    the cluster was one of another `generation` of the tree: then it has another number now.
    """
    _view(store, round_number, class_id, cluster, kind)
    with store.locked():
        check_generation(_view(store, round_number, class_id, cluster, kind).entry, generation)
        reopens = foresee(store, round_number, class_id, cluster, kind).reopens
        store.overrides.add(round_number, class_id, cluster, kind)
        order = f"is to be: {kind}" if kind else "is decided by its answers again"
        store.log(f"round {round_number}, {name}: cluster {cluster} {order}, says the lead")
        live(store).save(also=[round_number])
        if reopens:
            store.rounds.update(round_number, stage=Stage.VERIFY, ended_at=None)
            # Its masks are those decided so far again, until it ends anew.
            store.datasets.remove(round_number)
            live(store).refold(round_number)
            live(store).save()
        elif store.rounds.get(round_number).stage == Stage.DONE:
            masks = obtained(store, round_number)
            store.datasets.save(round_number, masks)
            store.rounds.update(round_number, metrics={"masks": len(masks)})


def check_generation(entry: m.ClassTree, generation: int) -> None:
    """Raises InputError where a page that names a cluster was made before new masks joined the tree."""
    if entry.generation != generation:
        raise InputError("cluster", "one of the tree as it is now", "one from before new images joined; look again")


def _questions(store: Store, round_number: int, search: Search) -> int:
    """How many masks a search would ask about next."""
    if not _may_reopen(store, round_number) and store.rounds.get(round_number).stage != Stage.VERIFY:
        return 0
    spent, budget = search.questions, round_budget(store, round_number)
    search.afford(None if budget is None else spent + budget)
    search.step()
    return search.questions - spent


def _masks(store: Store, view: ClassView, search: Search) -> set[int]:
    """The masks that a class's decisions bring into the dataset; for a target, with those that are chosen by chance."""
    if view.rules.policy == "target":
        return _masks_for_target(store, view, search)
    masks = propagate(
        store.masks.read(view.mask_ids), search.tree, search.decisions, counted_verdicts(store),
        round_number=view.round_number, model_version="",
    )  # fmt: skip
    return set(masks.mask_id.tolist())


def _masks_for_target(store: Store, view: ClassView, search: Search) -> set[int]:
    """What would be delivered of a class under these orders; rivals of what they bring in are not looked at."""
    delivered = standing_masks(store).mask_id
    own = delivered[np.isin(delivered, view.mask_ids)].tolist()
    verdicts = counted_verdicts(store)
    down = {mask for mask, verdict in verdicts.items() if verdict != Verdict.YES}
    voted = verdicts.keys() - down
    now = {d.cluster: str(d.kind) for d in live(store).imagined(view, dict(view.rules.overrides)).decisions}
    chosen = set(own)
    for d in search.decisions:
        members = {view.mask(leaf) for leaf in search.tree.members(d.cluster).tolist()}
        if now.get(d.cluster) != d.kind:
            chosen = chosen | (members - down) if d.kind == Kind.ACCEPT else chosen - (members - voted)
    return chosen


def _may_reopen(store: Store, round_number: int) -> bool:
    """Only the newest round can go on: those before it were trained on."""
    newest = store.rounds.newest()
    return newest is not None and newest.number == round_number and newest.stage in (Stage.PROPAGATE, Stage.DONE)


def _view(store: Store, round_number: int, class_id: int, cluster: int, kind: str | None) -> ClassView:
    """The view of a class. Raises InputError where there is no such decision, tree or cluster."""
    if kind is not None and kind not in KINDS:
        raise InputError("decision", "accept, reject, split or none", kind)
    view = live(store).view(round_number, class_id)
    if view is None:
        raise InputError("cluster", "a round and class with a tree", f"round {round_number}, class {class_id}")
    if not 0 <= cluster < 2 * view.entry.masks - 1:
        raise InputError("cluster", f"a number from 0 to {2 * view.entry.masks - 2}", cluster)
    return view
