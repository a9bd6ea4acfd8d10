"""The search for good clusters in one class's tree: a deterministic fold over answers.

A `Search` is built from (tree, policy, thresholds, seed). Facts go in through `asked` and `answer`; `catch_up` takes
every decision that they settle, and `wishes` says what the undecided clusters want asked next. It holds no clock, no
random state and no order of arrival: the sample of a cluster depends on the seed and the cluster alone, and a decision
on the answers of that sample alone. So the same facts, recorded in any order and with any number of catch-ups between
them, give the same decisions and the same wishes, and any number of clusters may be in the hands of annotators at once.

`state` and `restore` turn a search into plain arrays and back: a search that is restored goes on as if nothing had
happened, without reading its history.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from campaign.records.decision import Decision, Kind
from campaign.records.verdict import Verdict
from campaign.search.evidence import Ask, Evidence, Outcome, Policy
from campaign.search.sampling import draw_keys
from ml_backend.errors import InputError

if TYPE_CHECKING:
    from campaign.clustering import Tree
    from campaign.search.thresholds import Thresholds


class Case:
    """An undecided cluster that was considered: which of its masks are to be answered before it is considered again."""

    __slots__ = ("evidence", "order", "priority", "unasked", "waiting", "wanted")

    def __init__(self, evidence: Evidence, order: list[int]):
        self.evidence = evidence
        self.order = order  # the sample, as far as it may ever be drawn
        self.priority = 0.0  # as it was when the cluster was considered
        self.waiting: dict[int, None] = {}  # drawn masks still without an answer, in order
        self.unasked = 0  # how many of those nobody has been asked about yet
        self.wanted = 0  # how much of `order` is to be answered before the cluster is considered again

    def fork(self, evidence: Evidence) -> Case:
        """A copy that shares nothing that changes."""
        twin = Case(evidence, self.order)
        twin.waiting, twin.wanted = dict(self.waiting), self.wanted
        twin.priority, twin.unasked = self.priority, self.unasked
        return twin


class Search:
    """The search of one class's tree under a policy.

    `budget` is the most masks that may be asked about, None for no limit; masks already asked about count against it.
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
        self.cases: dict[int, Case] = {}  # undecided clusters that were considered
        self._offspring = offspring
        self._facts: dict[int, Verdict] = {}
        self._asked: set[int] = set()
        self._heap: list[tuple[float, int, Evidence]] = []  # undecided clusters not considered yet
        self._case_of: dict[int, int] = {}  # drawn mask without an answer -> its cluster; undecided ones share no mask
        self._wishing: list[tuple[float, int]] = []  # heap of (-priority, cluster): cases that want masks asked
        self._open = 0  # masks asked about that a case waits for
        self._answered: list[int] = []  # cases whose drawn masks are all answered
        self._unaffordable: list[int] = []
        self._inherited: dict[int, list[int]] = {}
        self._position: np.ndarray | None = None
        for cluster in policy.start(tree) if tree.n else []:
            self._push(self._evidence(cluster, 0, None))

    # facts

    def answer(self, leaf: int, verdict: Verdict | int) -> None:
        """Records the verdict of one mask. Facts may come in any order, also before the mask is asked about.

        Raises InputError for an unknown mask, or for a second verdict that differs: an answer that was changed needs
        a fresh search that all facts are recorded in.
        """
        verdict = Verdict(verdict)
        known = self._facts.get(leaf)
        if known is not None:
            if known != verdict:
                raise InputError(f"answer for mask {leaf}", f"the verdict recorded before, {known.name}", verdict.name)
            return
        if not 0 <= leaf < self.tree.n:
            raise InputError("mask", f"a leaf from 0 to {self.tree.n - 1}", leaf)
        self.asked((leaf,))
        self._facts[leaf] = verdict
        cluster = self._case_of.pop(leaf, None)
        if cluster is not None:
            case = self.cases[cluster]
            del case.waiting[leaf]
            self._open -= 1
            if not case.waiting:
                self._answered.append(cluster)

    def asked(self, leaves: Iterable[int]) -> None:
        """Records that masks were put to annotators, whether or not they answered."""
        for leaf in map(int, leaves):
            if leaf in self._asked:
                continue
            self._asked.add(leaf)
            cluster = self._case_of.get(leaf)
            if cluster is not None:
                self.cases[cluster].unasked -= 1
                self._open += 1

    # what is known

    def verdict(self, leaf: int) -> Verdict | None:
        """What was recorded of a mask, None where nothing was."""
        return self._facts.get(leaf)

    @property
    def verdicts(self) -> dict[int, Verdict]:
        """{leaf: verdict} of all masks that have one."""
        return self._facts

    def was_asked(self, leaf: int) -> bool:
        """Whether a mask was put to annotators."""
        return leaf in self._asked

    def asked_leaves(self) -> list[int]:
        """The masks that were put to annotators, in order."""
        return sorted(self._asked)

    @property
    def questions(self) -> int:
        """Masks put to annotators so far: no mask is ever asked about twice."""
        return len(self._asked)

    @property
    def open(self) -> list[Ask]:
        """Masks asked about that a cluster waits for, by cluster."""
        asks = (
            (c, tuple(leaf for leaf in case.waiting if leaf in self._asked)) for c, case in sorted(self.cases.items())
        )
        return [Ask(cluster, leaves) for cluster, leaves in asks if leaves]

    @property
    def outstanding(self) -> int:
        """Number of masks asked about that a cluster waits for."""
        return self._open

    @property
    def pending(self) -> list[int]:
        """Clusters without a decision, asked about or not yet; empty when the search came to its own end."""
        return sorted(evidence.cluster for evidence in self.undecided())

    @property
    def done(self) -> bool:
        """Nothing is open and nothing more will be asked, by the policy or for want of budget."""
        return not self._open and not self._answered and not self._heap and self._next_wish() is None

    def undecided(self) -> list[Evidence]:
        """The evidence of all clusters without a decision."""
        return [*(e for _, _, e in self._heap), *(case.evidence for case in self.cases.values())]

    @property
    def next_priority(self) -> float | None:
        """The priority of the cluster that `advance` would look at next, None when there is none."""
        wish = self._next_wish()
        best = [entry[0] for entry in (self._heap[:1] + ([wish] if wish else []))]
        return -min(best) if best else None

    def accepted(self) -> Iterator[int]:
        """The leaves of all accepted clusters, whatever their own verdicts."""
        for decision in self.decisions:
            if decision.kind == Kind.ACCEPT:
                yield from self.tree.members(decision.cluster).tolist()

    def wishes(self) -> list[Ask]:
        """Masks that the undecided clusters want asked now, best cluster first; nothing is recorded as asked."""
        ranked = sorted((-case.priority, cluster) for cluster, case in self.cases.items() if case.unasked)
        return [Ask(cluster, self._unasked(cluster)) for _, cluster in ranked]

    # the fold

    def catch_up(self) -> None:
        """Takes every decision that the facts settle, and asks nothing: what is wanted next stands in `wishes`."""
        self.settle()
        while self._heap:
            evidence = heapq.heappop(self._heap)[2]
            outcome = self.policy.consider(evidence, self.thresholds)
            if isinstance(outcome, Outcome):
                self._decide(evidence, outcome)
            else:
                self._draw(evidence, outcome)

    def step(self, limit: int | None = None) -> list[Ask]:
        """Decides what the answers settle and asks what is wanted then, best clusters first; returns what it asked.

        Clusters are opened as long as fewer than `limit` masks are without an answer (None: no limit). With
        `limit=1` one cluster is open at a time, the order of Algorithm 1 on a single annotator.
        """
        asks: list[Ask] = []
        self.settle()
        while (limit is None or self._open < limit) and self.next_priority is not None:
            ask = self.advance()
            if ask is not None:
                asks.append(ask)
        return asks

    def advance(self) -> Ask | None:
        """One move on the best undecided cluster alone: asks what it wants, or considers it and returns None."""
        wish = self._next_wish()
        if wish is not None and (not self._heap or wish <= self._heap[0][:2]):
            return self._ask(heapq.heappop(self._wishing)[1])
        evidence = heapq.heappop(self._heap)[2]
        outcome = self.policy.consider(evidence, self.thresholds)
        if isinstance(outcome, Outcome):
            self._decide(evidence, outcome)
            return None
        self._draw(evidence, outcome)
        return None

    def afford(self, budget: int | None) -> None:
        """Sets another budget; clusters that were put aside for want of one are taken up again."""
        self.budget = budget
        for cluster in self._unaffordable:
            if cluster in self.cases:
                heapq.heappush(self._wishing, (-self.cases[cluster].priority, cluster))
        self._unaffordable.clear()

    def settle(self) -> None:
        """Takes the decisions that the answers since the last time settle."""
        for cluster in sorted(self._answered):
            case = self.cases[cluster]
            self._count(case.evidence, case.order[case.evidence.drawn : case.wanted])
            outcome = self.policy.consider(case.evidence, self.thresholds)
            if isinstance(outcome, Outcome):
                self._decide(case.evidence, outcome)
            else:
                self._push(case.evidence)
        self._answered.clear()

    def _next_wish(self) -> tuple[float, int] | None:
        """The best case that wants masks asked and was not put aside; stale entries are dropped on the way."""
        while self._wishing:
            priority, cluster = self._wishing[0]
            case = self.cases.get(cluster)
            if case is not None and case.unasked and -case.priority == priority:
                return self._wishing[0]
            heapq.heappop(self._wishing)
        return None

    def _draw(self, evidence: Evidence, more: int) -> None:
        """Draws `more` masks of a cluster, which waits for those without an answer; with none it comes up again."""
        cluster = evidence.cluster
        case = self.cases.get(cluster)
        if case is None:
            case = self.cases[cluster] = Case(evidence, self._sample(cluster))
        wanted = evidence.drawn + more
        if more < 1 or wanted > len(case.order):
            raise ValueError(f"policy {self.policy.name}: expected 1 to {len(case.order) - evidence.drawn} more masks")
        fresh = case.order[evidence.drawn : wanted]
        case.wanted = wanted
        case.priority = self.policy.priority(evidence, self.thresholds)
        self.samples += len(fresh)
        self._wait(cluster, case, fresh)
        if not case.waiting:
            self._count(evidence, fresh)
            self._push(evidence)

    def _wait(self, cluster: int, case: Case, drawn: list[int]) -> None:
        """Lets a case wait for those of its drawn masks that have no answer."""
        for leaf in drawn:
            if leaf not in self._facts:
                case.waiting[leaf] = None
                self._case_of[leaf] = cluster
        case.unasked = sum(leaf not in self._asked for leaf in case.waiting)
        self._open += len(case.waiting) - case.unasked
        if case.unasked:
            heapq.heappush(self._wishing, (-case.priority, cluster))

    def _ask(self, cluster: int) -> Ask | None:
        """Asks what a case wants. None where nothing is left to ask, or where it cannot be afforded."""
        case = self.cases[cluster]
        if not case.unasked:
            return None
        if self.budget is not None and len(self._asked) + case.unasked > self.budget:
            self._unaffordable.append(cluster)
            return None
        leaves = self._unasked(cluster)
        self.asked(leaves)
        return Ask(cluster, leaves)

    def _unasked(self, cluster: int) -> tuple[int, ...]:
        return tuple(leaf for leaf in self.cases[cluster].waiting if leaf not in self._asked)

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
        kind, rule = Kind(outcome.kind), outcome.rule
        if kind == Kind.SPLIT and (left < 0 or not self._offspring):
            kind, rule = Kind.REJECT, f"{rule}, not divisible" if left < 0 else rule
        mean_score, quality, bound = evidence.mean_score, outcome.quality, outcome.lower_bound
        self.decisions.append(Decision(cluster, kind, rule, evidence.drawn, evidence.yes, quality, mean_score, bound))
        case = self.cases.pop(cluster, None)
        inherited = self._inherited.pop(cluster, [])
        if kind != Kind.SPLIT:
            return
        drawn = (case.order if case else inherited)[: evidence.drawn]
        for child in (left, right):
            below = self._evidence(child, evidence.depth + 1, evidence)
            if self.policy.shared_draw and drawn:
                start = int(self.tree.start[child])
                inside = [leaf for leaf in drawn if 0 <= self._place(leaf) - start < below.size]
                if inside:
                    self._inherited[child] = inside
                    self._count(below, inside)
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

    # copies

    def fork(self) -> Search:
        """A copy that goes its own way from here; the tree is shared."""
        twin = copy(self)
        # evidence still grows while a cluster is undecided
        fresh: dict[int, Evidence] = {}

        def renew(evidence: Evidence) -> Evidence:
            return fresh.setdefault(evidence.cluster, replace(evidence))

        twin._heap = [(p, c, renew(e)) for p, c, e in self._heap]
        twin.cases = {cluster: case.fork(renew(case.evidence)) for cluster, case in self.cases.items()}
        twin.decisions, twin._answered = list(self.decisions), list(self._answered)
        twin._facts, twin._asked = dict(self._facts), set(self._asked)
        twin._case_of, twin._inherited = dict(self._case_of), dict(self._inherited)
        twin._wishing, twin._unaffordable = list(self._wishing), list(self._unaffordable)
        return twin

    def state(self) -> dict[str, np.ndarray]:
        """The search after `catch_up` as plain arrays, for `restore`.

        Raises ValueError before a catch-up. A policy's memos are kept where they are arrays of one length.
        """
        if self._heap or self._answered:
            raise ValueError("search: expected one that has caught up with its facts")
        nodes, index = self._nodes()
        cases = [self.cases[c] for c in sorted(self.cases)]
        memos = [case.evidence.memo for case in cases]
        rules, rule = np.unique([d.rule for d in self.decisions] or [""], return_inverse=True)
        return {
            "facts": np.array(list(self._facts.items()), np.int64).reshape(-1, 2),
            "asked": np.array(self.asked_leaves(), np.int64),
            "decided": np.array(
                [(d.cluster, _KINDS.index(d.kind), d.asked, d.yes) for d in self.decisions], np.int64
            ).reshape(-1, 4),
            "estimates": np.array(
                [(_or_nan(d.quality), d.mean_score, _or_nan(d.lower_bound)) for d in self.decisions], np.float64
            ).reshape(-1, 3),
            "rules": rules.astype(np.str_),
            "rule": rule.reshape(-1)[: len(self.decisions)].astype(np.int32),
            "nodes": np.array(nodes, np.int64).reshape(-1, 6),
            "case_node": np.array([index[case.evidence.cluster] for case in cases], np.int64),
            "case_wanted": np.array([case.wanted for case in cases], np.int64),
            "case_priority": np.array([case.priority for case in cases], np.float64),
            "case_length": np.array([len(case.order) for case in cases], np.int64),
            "case_order": np.array([leaf for case in cases for leaf in case.order], np.int64),
            "memos": np.stack(kept) if (kept := [m for m in memos if m is not None]) else np.zeros((0, 0)),
            "has_memo": np.array([m is not None for m in memos], bool),
            "samples": np.array(self.samples, np.int64),
        }

    @classmethod
    def restore(
        cls, tree: Tree, policy: Policy, thresholds: Thresholds, seed: int, state: Mapping[str, np.ndarray]
    ) -> Search:
        """The search that `state` was taken of, on the same tree with the same policy, thresholds and seed."""
        search = cls(tree, policy, thresholds, seed)
        search._heap.clear()
        search.samples = int(state["samples"])
        search._facts = {leaf: Verdict(v) for leaf, v in state["facts"].tolist()}
        search._asked = set(state["asked"].tolist())
        rules = state["rules"].tolist()
        for (cluster, kind, asked, yes), (quality, score, bound), rule in zip(
            state["decided"].tolist(), state["estimates"].tolist(), state["rule"].tolist(), strict=True
        ):
            estimates = (_or_none(quality), score, _or_none(bound))
            search.decisions.append(Decision(cluster, _KINDS[kind], rules[rule], asked, yes, *estimates))
        evidence: list[Evidence] = []
        for cluster, depth, yes, no, unsure, parent in state["nodes"].tolist():
            node = search._evidence(cluster, depth, evidence[parent] if parent >= 0 else None)
            node.yes, node.no, node.unsure = yes, no, unsure
            evidence.append(node)
        memos = iter(state["memos"])
        ends = np.cumsum(state["case_length"])
        order = state["case_order"].tolist()
        for n, node_index in enumerate(state["case_node"].tolist()):
            node = evidence[node_index]
            node.memo = next(memos) if state["has_memo"][n] else None
            case = Case(node, order[int(ends[n] - state["case_length"][n]) : int(ends[n])])
            case.wanted, case.priority = int(state["case_wanted"][n]), float(state["case_priority"][n])
            search.cases[node.cluster] = case
            search._wait(node.cluster, case, case.order[node.drawn : case.wanted])
        return search

    def _nodes(self) -> tuple[list[tuple[int, ...]], dict[int, int]]:
        """The evidence of all cases and of their ancestors, parents first, and the place of each cluster among it."""
        nodes: list[tuple[int, ...]] = []
        index: dict[int, int] = {}
        for cluster in sorted(self.cases):
            lineage: list[Evidence] = []
            evidence: Evidence | None = self.cases[cluster].evidence
            while evidence is not None and evidence.cluster not in index:
                lineage.append(evidence)
                evidence = evidence.parent
            for e in reversed(lineage):
                index[e.cluster] = len(nodes)
                parent = -1 if e.parent is None else index[e.parent.cluster]
                nodes.append((e.cluster, e.depth, e.yes, e.no, e.unsure, parent))
        return nodes, index


_KINDS = list(Kind)


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value
