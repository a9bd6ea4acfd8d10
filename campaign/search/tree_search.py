"""The search for good clusters in one class's tree: a deterministic fold over answers.

A `Search` is built from (tree, policy, thresholds, seed). Facts go in through `answer`; `step` takes every decision
that they settle and says what to ask next. It holds no clock, no random state and no order of arrival: the sample
of a cluster depends on the seed and the cluster alone, and a decision on the answers of that sample alone. So the
same facts, told to a fresh search in any order, give the same decisions and the same questions, and any number of
clusters may be in the hands of annotators at once.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from copy import copy
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np

from ml_backend.errors import InputError

if TYPE_CHECKING:
    from campaign.clustering import Tree
    from campaign.search.thresholds import Thresholds

Kind = Literal["accept", "reject", "split"]


class Verdict(IntEnum):
    """What an annotator says of one mask: is it correct?"""

    NO = 0
    YES = 1
    UNSURE = 2


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided of a cluster, and on what evidence.

    `asked` counts the masks whose answers were weighed, unsure ones included, `yes` those voted yes. `quality` is
    Q̃, the estimate of the fraction of correct masks, and `lower_bound` its one-sided 95 % lower bound; both are None
    for a decision that rests on the mean score alone.
    """

    cluster: int
    kind: Kind
    rule: str
    asked: int
    yes: int
    quality: float | None
    mean_score: float
    lower_bound: float | None


@dataclass(frozen=True, slots=True)
class Ask:
    """Masks of one cluster to be put to annotators now: leaf indexes of the tree, in the order they were drawn."""

    cluster: int
    leaves: tuple[int, ...]


@dataclass(slots=True)
class Evidence:
    """All that a policy may know of a cluster: its size, its mean score, and the answers of its sample so far.

    `height` is the fused distance at which it was merged, 0 of a single mask, and `depth` the number of splits between
    the root and it. `parent` is the evidence on which the parent was split, None at a cluster where the search began.
    `memo` is for what a policy derives from these, and nothing else, and does not want to derive twice.
    """

    cluster: int
    size: int
    mean_score: float
    height: float = 0.0
    depth: int = 0
    yes: int = 0
    no: int = 0
    unsure: int = 0
    parent: Evidence | None = None
    memo: Any = None

    @property
    def drawn(self) -> int:
        """Masks of the sample that were answered, one way or another."""
        return self.yes + self.no + self.unsure


class Outcome(NamedTuple):
    """A policy's decision of a cluster, see `Decision`."""

    kind: Kind
    rule: str
    quality: float | None = None
    lower_bound: float | None = None


class Policy(Protocol):
    """Says of a cluster how many more masks to ask about, or what to decide. Pure: no state, no randomness.

    `shared_draw`: one random order of all masks serves every cluster, so the answers of a parent's sample that lie in
    a child are the beginning of the child's own sample. Otherwise every cluster's sample is drawn afresh.
    """

    @property
    def name(self) -> str: ...

    @property
    def shared_draw(self) -> bool: ...

    def start(self, tree: Tree) -> list[int]:
        """The clusters to begin with, usually the root alone."""
        ...

    def priority(self, evidence: Evidence, thresholds: Thresholds) -> float:
        """Clusters with the greatest value are looked at first."""
        ...

    def draw_limit(self, size: int) -> int:
        """The most masks that may ever be drawn from a cluster of `size` masks."""
        ...

    def consider(self, evidence: Evidence, thresholds: Thresholds) -> Outcome | int:
        """A decision, or how many more masks, at least one, to ask about before the cluster is considered again."""
        ...


def draw_keys(seed: int, salt: int, leaves: np.ndarray) -> np.ndarray:
    """Random 64-bit keys of leaves, (k,) uint64: a uniform sample is the k leaves with the smallest keys.

    A hash (SplitMix64) rather than a generator, so a sample is the same on every NumPy version and platform.
    """
    mixed = _scramble(np.array([seed & 0xFFFFFFFFFFFFFFFF], np.uint64))
    mixed = _scramble(mixed ^ np.uint64((salt + 1) & 0xFFFFFFFFFFFFFFFF))
    return _scramble(leaves.astype(np.uint64) ^ mixed)


def _scramble(x: np.ndarray) -> np.ndarray:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class _Case:
    """An undecided cluster of which masks are being asked."""

    __slots__ = ("evidence", "order", "waiting", "wanted")

    def __init__(self, evidence: Evidence, order: list[int]):
        self.evidence = evidence
        self.order = order  # the sample, as far as it may ever be drawn
        self.waiting: dict[int, None] = {}  # published masks still without an answer, in order
        self.wanted = 0  # how much of `order` is to be answered before the cluster is considered again

    def fork(self, evidence: Evidence) -> _Case:
        twin = _Case(evidence, self.order)
        twin.waiting, twin.wanted = dict(self.waiting), self.wanted
        return twin


class Search:
    """The search of one class's tree under a policy.

    `budget` is the most masks that may be asked about, None for no limit; facts already told count against it.
    `offspring`: with False a cluster that would be split is rejected (used to cut the tree once).

    `samples` counts the masks drawn for all clusters. A policy that draws every cluster's sample afresh may draw a mask
    again whose answer is known: it is counted again here, as the published algorithm would ask again, but no mask is
    ever put to annotators twice.

    >>> search = Search(tree, paper(), Thresholds(0.2, 0.7), seed=1)     # doctest: +SKIP
    >>> while not search.done:                                           # doctest: +SKIP
    ...     for ask in search.step():
    ...         for leaf in ask.leaves:
    ...             search.answer(leaf, Verdict.YES)
    """

    def __init__(
        self,
        tree: Tree,
        policy: Policy,
        thresholds: Thresholds,
        seed: int,
        budget: int | None = None,
        offspring: bool = True,
    ):
        self.tree, self.policy, self.thresholds, self.seed = tree, policy, thresholds, seed
        self.budget = budget
        self.decisions: list[Decision] = []
        self.samples = 0
        self._offspring = offspring
        self._facts: dict[int, Verdict] = {}
        self._published: set[int] = set()
        self._heap: list[tuple[float, int, Evidence]] = []
        self._cases: dict[int, _Case] = {}
        self._asked_in: dict[int, int] = {}  # published mask without an answer -> the cluster it was drawn for
        self._answered: list[int] = []  # clusters whose published masks are all answered
        self._unaffordable: list[tuple[float, int, Evidence]] = []
        self._inherited: dict[int, list[int]] = {}
        self._position: np.ndarray | None = None
        for cluster in policy.start(tree) if tree.n else []:
            self._push(self._evidence(cluster, 0, None))

    # facts

    def answer(self, leaf: int, verdict: Verdict | int) -> None:
        """Tells the verdict of one mask. Facts may come in any order, also before the mask is asked about.

        Raises InputError for an unknown mask, or for a second verdict that differs: an answer that was changed needs
        a fresh search, told all facts.
        """
        verdict = Verdict(verdict)
        known = self._facts.get(leaf)
        if known is not None:
            if known != verdict:
                raise InputError(f"answer for mask {leaf}", f"the verdict told before, {known.name}", verdict.name)
            return
        if not 0 <= leaf < self.tree.n:
            raise InputError("mask", f"a leaf from 0 to {self.tree.n - 1}", leaf)
        self._facts[leaf] = verdict
        self._published.add(leaf)
        cluster = self._asked_in.pop(leaf, None)
        if cluster is not None:
            case = self._cases[cluster]
            del case.waiting[leaf]
            if not case.waiting:
                self._answered.append(cluster)

    def published(self, leaves: Iterable[int]) -> None:
        """Tells that masks were already put to annotators, so that a resumed search counts them in its budget."""
        self._published.update(int(leaf) for leaf in leaves)

    # what is known

    def verdict(self, leaf: int) -> Verdict | None:
        """What was told of a mask, None where nothing was."""
        return self._facts.get(leaf)

    @property
    def questions(self) -> int:
        """Masks put to annotators so far: no mask is ever asked about twice."""
        return len(self._published)

    @property
    def open(self) -> list[Ask]:
        """Published masks still without an answer, by cluster."""
        return [Ask(c, tuple(case.waiting)) for c, case in sorted(self._cases.items()) if case.waiting]

    @property
    def outstanding(self) -> int:
        """Number of published masks still without an answer."""
        return len(self._asked_in)

    @property
    def pending(self) -> list[int]:
        """Clusters without a decision, asked about or not yet; empty when the search came to its own end."""
        return sorted(evidence.cluster for evidence in self.undecided())

    @property
    def done(self) -> bool:
        """Nothing is open and nothing more will be asked, by the policy or for want of budget."""
        return not self._asked_in and not self._answered and not self._heap

    def fork(self) -> Search:
        """A copy that goes its own way from here; the tree is shared."""
        twin = copy(self)
        # evidence still grows while a cluster is undecided, and the heap and the open cases share it
        fresh: dict[int, Evidence] = {}

        def renew(evidence: Evidence) -> Evidence:
            return fresh.setdefault(evidence.cluster, replace(evidence))

        twin._heap = [(p, c, renew(e)) for p, c, e in self._heap]
        twin._unaffordable = [(p, c, renew(e)) for p, c, e in self._unaffordable]
        twin._cases = {cluster: case.fork(renew(case.evidence)) for cluster, case in self._cases.items()}
        twin.decisions, twin._answered = list(self.decisions), list(self._answered)
        twin._facts, twin._published = dict(self._facts), set(self._published)
        twin._asked_in, twin._inherited = dict(self._asked_in), dict(self._inherited)
        return twin

    def undecided(self) -> list[Evidence]:
        """The evidence of all clusters without a decision."""
        waiting = {e.cluster: e for _, _, e in (*self._heap, *self._unaffordable)}
        return list((waiting | {c: case.evidence for c, case in self._cases.items()}).values())

    @property
    def next_priority(self) -> float | None:
        """The priority of the cluster that `step` would look at next, None when there is none."""
        return -self._heap[0][0] if self._heap else None

    def accepted(self) -> Iterator[int]:
        """The leaves of all accepted clusters, whatever their own verdicts."""
        for decision in self.decisions:
            if decision.kind == "accept":
                yield from self.tree.members(decision.cluster).tolist()

    # the fold

    def step(self, limit: int | None = None) -> list[Ask]:
        """Decides what the answers settle and returns what is to be published now, best clusters first.

        Clusters are opened as long as fewer than `limit` masks are without an answer (None: no limit). With
        `limit=1` one cluster is open at a time, the order of Algorithm 1 on a single annotator.
        """
        asks: list[Ask] = []
        self.settle()
        while self._heap and (limit is None or len(self._asked_in) < limit):
            ask = self.advance()
            if ask is not None:
                asks.append(ask)
        return asks

    def advance(self) -> Ask | None:
        """Looks at the best undecided cluster alone: asks about it, or decides it and gives None."""
        entry = heapq.heappop(self._heap)
        outcome = self.policy.consider(entry[2], self.thresholds)
        if isinstance(outcome, Outcome):
            self._decide(entry[2], outcome)
            return None
        return self._draw(entry, outcome)

    def afford(self, budget: int | None) -> None:
        """Sets another budget; clusters that were put aside for want of one are taken up again."""
        self.budget = budget
        for entry in self._unaffordable:
            heapq.heappush(self._heap, entry)
        self._unaffordable.clear()

    def settle(self) -> None:
        """Takes the decisions that the answers since the last time settle."""
        for cluster in sorted(self._answered):
            case = self._cases[cluster]
            self._count(case.evidence, case.order[case.evidence.drawn : case.wanted])
            outcome = self.policy.consider(case.evidence, self.thresholds)
            if isinstance(outcome, Outcome):
                self._decide(case.evidence, outcome)
            else:
                self._push(case.evidence)
        self._answered.clear()

    def _draw(self, entry: tuple[float, int, Evidence], more: int) -> Ask | None:
        """Draws `more` masks of a cluster. None when all their answers are known, or when they cannot be afforded."""
        cluster, evidence = entry[1], entry[2]
        case = self._cases.get(cluster)
        if case is None:
            case = self._cases[cluster] = _Case(evidence, self._sample(cluster))
        wanted = evidence.drawn + more
        if more < 1 or wanted > len(case.order):
            raise ValueError(f"policy {self.policy.name}: expected 1 to {len(case.order) - evidence.drawn} more masks")
        fresh = case.order[evidence.drawn : wanted]
        unknown = [leaf for leaf in fresh if leaf not in self._facts]
        if self.budget is not None:
            spent = len(self._published) + sum(leaf not in self._published for leaf in unknown)
            if unknown and spent > self.budget:
                self._unaffordable.append(entry)
                return None
        case.wanted = wanted
        self.samples += len(fresh)
        if not unknown:
            self._count(evidence, fresh)
            self._push(evidence)
            return None
        self._published.update(unknown)
        for leaf in unknown:
            case.waiting[leaf] = None
            self._asked_in[leaf] = cluster
        return Ask(cluster, tuple(unknown))

    def _sample(self, cluster: int) -> list[int]:
        """The masks that may be drawn from a cluster, in the order in which they are."""
        members = np.asarray(self.tree.members(cluster))
        keys = draw_keys(self.seed, -1 if self.policy.shared_draw else cluster, members)
        most = min(len(members), self.policy.draw_limit(len(members)))
        if most < len(members):
            chosen = np.argpartition(keys, most - 1)[:most]
            members, keys = members[chosen], keys[chosen]
        return members[np.argsort(keys, kind="stable")].tolist()

    def _decide(self, evidence: Evidence, outcome: Outcome) -> None:
        cluster = evidence.cluster
        left, right = self.tree.children[cluster].tolist() if evidence.size > 1 else (-1, -1)
        kind, rule = outcome.kind, outcome.rule
        if kind == "split" and (left < 0 or not self._offspring):
            kind, rule = "reject", f"{rule}, not divisible" if left < 0 else rule
        self.decisions.append(
            Decision(
                cluster,
                kind,
                rule,
                evidence.drawn,
                evidence.yes,
                outcome.quality,
                evidence.mean_score,
                outcome.lower_bound,
            )
        )
        case = self._cases.pop(cluster, None)
        inherited = self._inherited.pop(cluster, [])
        if kind != "split":
            return
        drawn = (case.order if case else inherited)[: evidence.drawn]
        for child in (left, right):
            below = self._evidence(child, evidence.depth + 1, evidence)
            if self.policy.shared_draw and drawn:
                start = int(self.tree.start[child])
                mine = [leaf for leaf in drawn if 0 <= self._place(leaf) - start < below.size]
                if mine:
                    self._inherited[child] = mine
                    self._count(below, mine)
            self._push(below)

    def _place(self, leaf: int) -> int:
        """Where a leaf stands in the tree's leaf order."""
        if self._position is None:
            order = np.asarray(self.tree.order)
            self._position = np.empty(len(order), np.int64)
            self._position[order] = np.arange(len(order))
        return int(self._position[leaf])

    def _count(self, evidence: Evidence, leaves: list[int]) -> None:
        for leaf in leaves:
            verdict = self._facts[leaf]
            if verdict == Verdict.YES:
                evidence.yes += 1
            elif verdict == Verdict.NO:
                evidence.no += 1
            else:
                evidence.unsure += 1

    def _evidence(self, cluster: int, depth: int, parent: Evidence | None) -> Evidence:
        size, score = int(self.tree.size[cluster]), float(self.tree.mean_score[cluster])
        return Evidence(cluster, size, score, float(self.tree.height[cluster]), depth, parent=parent)

    def _push(self, evidence: Evidence) -> None:
        heapq.heappush(self._heap, (-self.policy.priority(evidence, self.thresholds), evidence.cluster, evidence))
