"""Deciding a cluster otherwise: what would change, and then the change itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from campaign.dataset.propagation import propagate
from campaign.derived.trust import counted_answers
from campaign.quality.answers import verdicts
from campaign.records.decision import Decision
from campaign.steps.propagate import obtained
from campaign.steps.verify import ClassSearch, open_searches, round_budget, save_decisions
from campaign.store import Store
from ml_backend.errors import InputError

KINDS = ("accept", "reject", "split")


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
    _check(store, round_number, class_id, cluster, kind)
    now = store.overrides.standing(round_number, class_id)
    wanted = {c: k for c, k in (now | {cluster: kind}).items() if k is not None}
    budget = round_budget(store, round_number)
    before, _ = _outcome(store, round_number, class_id, now, budget)
    after, questions = _outcome(store, round_number, class_id, wanted, budget)
    old, new = ({d.cluster: d.kind for d in s.search.decisions} for s in (before, after))
    size = before.search.tree.size
    changed = sorted((c for c in old.keys() | new.keys() if old.get(c) != new.get(c)), key=lambda c: -size[c])
    masks_before, masks_after = (_masks(store, round_number, s) for s in (before, after))
    rows = store.rounds.all()
    return Change(
        tuple(Difference(c, int(size[c]), old.get(c), new.get(c)) for c in changed),
        len(masks_after - masks_before),
        len(masks_before - masks_after),
        questions,
        sum(r.number > round_number for r in rows),
        _may_reopen(store, round_number) and questions > 0,
    )


def decide(store: Store, round_number: int, class_id: int, cluster: int, kind: str | None, name: str) -> None:
    """Stores the lead's decision as a fact, and recomputes the decisions and the dataset that follow from it.

    The newest round goes on where that leaves questions to ask; the next turn publishes them.
    """
    _check(store, round_number, class_id, cluster, kind)
    with store.locked():
        reopens = foresee(store, round_number, class_id, cluster, kind).reopens
        store.overrides.add(round_number, class_id, cluster, kind)
        told = f"is to be: {kind}" if kind else "is decided by its answers again"
        store.log(f"round {round_number}, {name}: cluster {cluster} {told}, says the lead")
        row = next(r for r in store.rounds.all() if r.number == round_number)
        for s in open_searches(store, round_number, class_id=class_id):
            s.search.afford(s.search.questions)
            s.search.step()
            save_decisions(store, round_number, s)
        if reopens:
            # Its masks are those decided so far again, until it ends anew.
            store.datasets.path(round_number).unlink(missing_ok=True)
            store.rounds.update(round_number, stage="verify", ended_at=None)
        elif row.stage == "done":
            store.datasets.save(round_number, obtained(store, round_number))


def _outcome(
    store: Store, round_number: int, class_id: int, overrides: Mapping[int, str], budget: int | None
) -> tuple[ClassSearch, int]:
    """The search of a class under these overrides, and how many masks it would ask about next."""
    (found,) = open_searches(store, round_number, {class_id: overrides}, class_id)
    spent = found.search.questions
    can_ask = _may_reopen(store, round_number) or _stage(store, round_number) == "verify"
    found.search.afford(spent if not can_ask else None if budget is None else spent + budget)
    found.search.step()
    return found, found.search.questions - spent


def _masks(store: Store, round_number: int, s: ClassSearch) -> set[int]:
    """The masks that a class's decisions bring into the dataset."""
    decisions: list[Decision] = s.search.decisions
    found = propagate(
        store.masks.read(np.asarray(s.mask_ids)), s.search.tree, decisions, verdicts(counted_answers(store)),
        round_number=round_number, model_version="",
    )  # fmt: skip
    return set(found.mask_id.tolist())


def _stage(store: Store, round_number: int) -> str:
    return next(r.stage for r in store.rounds.all() if r.number == round_number)


def _may_reopen(store: Store, round_number: int) -> bool:
    """Only the newest round can go on: those before it were trained on."""
    newest = store.rounds.newest()
    return newest is not None and newest.number == round_number and newest.stage in ("propagate", "done")


def _check(store: Store, round_number: int, class_id: int, cluster: int, kind: str | None) -> None:
    if kind is not None and kind not in KINDS:
        raise InputError("decision", "accept, reject, split or none", kind)
    entry = next((t for t in store.trees.rows(round_number) if t.class_id == class_id and t.masks), None)
    if entry is None:
        raise InputError("cluster", "a round and class with a tree", f"round {round_number}, class {class_id}")
    if not 0 <= cluster < 2 * entry.masks - 1:
        raise InputError("cluster", f"a number from 0 to {2 * entry.masks - 2}", cluster)
