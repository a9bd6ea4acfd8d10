"""One simulated campaign: the search that production runs, answered from true IoUs, with its course recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from campaign.records.decision import Kind
from campaign.records.verdict import Verdict
from campaign.search.budget import Searches
from campaign.search.evidence import Policy
from campaign.search.thresholds import Thresholds
from campaign.search.tree_search import Search
from campaign.simulation.annotators import Annotators
from campaign.simulation.populations import ClassPopulation

MATCHED_IOU = 0.5  # masks that count in SQ
_POINTS = 600  # of a curve that is kept


@dataclass
class Course:
    """How a data set grew: cumulative columns, one row for each time something happened.

    `questions` as the policy counts them: the published algorithm draws every cluster's sample afresh and asks again
    what it asked before, so there a mask may count twice. `asked` masks, each counted once. `seconds` of annotators'
    time for the questions; `masks` in the data set, `correct` ones among them, those `matched` with IoU ≥ 0.5 and the
    sum of their IoUs (`iou`); accepted clusters (`accepted`).
    """

    questions: np.ndarray
    asked: np.ndarray
    seconds: np.ndarray
    masks: np.ndarray
    correct: np.ndarray
    matched: np.ndarray
    iou: np.ndarray
    accepted: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[tuple], seconds_per_answer: float, start: int = 0) -> Course:
        """From rows (questions, asked, masks, correct, matched, iou, accepted); `start` were asked before."""
        table = np.array(rows, np.float64).reshape(-1, 7)
        questions = table[:, 0] + start
        return cls(questions, table[:, 1] + start, questions * seconds_per_answer, *table[:, 2:].T)

    def thinned(self, points: int = _POINTS) -> Course:
        """At most about `points` rows, evenly spread on a logarithmic axis of seconds, the last one always kept."""
        if len(self.seconds) <= points:
            return self
        marks = np.geomspace(max(self.seconds[0], 1e-3), max(self.seconds[-1], 2e-3), points)
        rows = np.unique([*(np.searchsorted(self.seconds, marks, side="right") - 1).clip(0), len(self.seconds) - 1])
        return Course(*(column[rows] for column in vars(self).values()))

    def summary(self) -> dict[str, float]:
        """Where it ended: questions, masks_asked, hours, masks, precision, sq, masks_per_question."""
        questions, masks = int(self.questions[-1]), int(self.masks[-1])
        return {
            "questions": questions,
            "masks_asked": int(self.asked[-1]),
            "hours": round(float(self.seconds[-1]) / 3600, 4),
            "masks": masks,
            "precision": round(float(self.correct[-1]) / masks, 5) if masks else 0.0,
            "sq": round(float(self.iou[-1] / self.matched[-1]), 5) if self.matched[-1] else 0.0,
            "masks_per_question": round(masks / questions, 4) if questions else 0.0,
        }

    def as_dict(self) -> dict[str, list[float]]:
        """The columns for JSON."""
        return {name: np.round(column, 4).tolist() for name, column in vars(self).items()}


@dataclass
class Dataset:
    """What a class has obtained so far, kept up mask by mask; `totals` are shared by all classes of a campaign.

    `since` of each mask is how many masks of all classes were in before it, −1 where it is not in.
    """

    iou: np.ndarray
    correct: np.ndarray
    inside: np.ndarray
    refused: np.ndarray
    since: np.ndarray
    totals: list[float]  # masks, correct, matched, iou

    @classmethod
    def empty(cls, iou: np.ndarray, k_iou: float, totals: list[float] | None = None) -> Dataset:
        """No masks yet, of those with these true IoUs."""
        totals = [0, 0, 0, 0.0] if totals is None else totals
        inside, refused = np.zeros(len(iou), bool), np.zeros(len(iou), bool)
        return cls(iou, iou >= k_iou, inside, refused, np.full(len(iou), -1, np.int64), totals)

    def vote(self, mask: int, verdict: int) -> None:
        """A verdict: a mask voted yes is in whatever becomes of its cluster, one voted no never."""
        if verdict == Verdict.YES:
            if not self.inside[mask]:
                self.inside[mask], self.since[mask] = True, int(self.totals[0])
                value = float(self.iou[mask])
                self.totals[0] += 1
                self.totals[1] += bool(self.correct[mask])
                if value >= MATCHED_IOU:
                    self.totals[2] += 1
                    self.totals[3] += value
        elif verdict == Verdict.NO:
            self.refused[mask] = True

    def accept(self, masks: np.ndarray) -> None:
        """Takes in all of `masks` that were not voted down."""
        new = masks[~self.inside[masks] & ~self.refused[masks]]
        self.inside[new], self.since[new] = True, int(self.totals[0]) + np.arange(len(new))
        matched = self.iou[new] >= MATCHED_IOU
        self.totals[0] += len(new)
        self.totals[1] += int(self.correct[new].sum())
        self.totals[2] += int(matched.sum())
        self.totals[3] += float(self.iou[new][matched].sum())


@dataclass
class Run:
    """The course of a simulated campaign, its data set and its searches, by class id."""

    course: Course
    datasets: dict[int, Dataset]
    searches: dict[int, Search]
    verdicts: dict[int, np.ndarray]

    @property
    def clusters_asked(self) -> int:
        """Clusters of which at least one mask was asked about for their own sake or a parent's."""
        return sum(d.asked > 0 for s in self.searches.values() for d in s.decisions)

    @property
    def clusters_accepted(self) -> int:
        """Accepted clusters."""
        return sum(d.kind == Kind.ACCEPT for s in self.searches.values() for d in s.decisions)


def questions_of(search: Search) -> int:
    """Questions as the policy counts them, see `Course`: masks drawn for clusters, less samples never asked about."""
    return search.samples - sum(c.wanted - c.evidence.drawn for c in search.cases.values() if c.unasked)


def run_campaign(  # noqa: PLR0913 - options by name
    population: Sequence[ClassPopulation],
    policy: Policy | Callable[[ClassPopulation], Policy],
    thresholds: dict[int, Thresholds],
    annotators: Annotators,
    *,
    seed: int,
    k_iou: float = 0.75,
    budget: int | None = None,
    offspring: bool = True,
    seconds_per_answer: float = 2.0,
    asked_before: int = 0,
) -> Run:
    """Searches all classes, the best cluster of all of them first, until nothing is left to ask or to spend.

    `policy` is one for all classes or makes one for each. `asked_before` are questions that the campaign had to ask
    in advance, on gold masks. The same seed gives the same run.
    """
    searches, datasets, verdicts = {}, {}, {}
    totals: list[float] = [0, 0, 0, 0.0]
    for c in population:
        own = policy(c) if callable(policy) else policy
        searches[c.class_id] = Search(c.tree, own, thresholds[c.class_id], seed, offspring=offspring)
        datasets[c.class_id] = Dataset.empty(c.iou, k_iou, totals)
        verdicts[c.class_id] = annotators.verdicts(c.iou, seed * 1009 + c.class_id)
    together = Searches(searches, None if budget is None else max(0, budget - asked_before))
    answers = {key: verdict.tolist() for key, verdict in verdicts.items()}
    seen, questions = dict.fromkeys(searches, 0), dict.fromkeys(searches, 0)
    counted = dict.fromkeys(searches, (0, 0))
    accepted = 0
    rows: list[tuple] = [(0, 0, 0, 0, 0, 0.0, 0)]
    while not together.done:
        for key, ask in together.step(limit=1):
            verdict, dataset = answers[key], datasets[key]
            for leaf in ask.leaves:
                together.answer(key, leaf, verdict[leaf])
                dataset.vote(leaf, verdict[leaf])
        for key, search in searches.items():
            if (search.samples, search.questions) != counted[key]:
                counted[key], questions[key] = (search.samples, search.questions), questions_of(search)
            if len(search.decisions) > seen[key]:
                for decision in search.decisions[seen[key] :]:
                    if decision.kind == Kind.ACCEPT:
                        accepted += 1
                        datasets[key].accept(np.asarray(search.tree.members(decision.cluster)))
                seen[key] = len(search.decisions)
        rows.append((sum(questions.values()), together.questions, *totals, accepted))
    return Run(Course.of(rows, seconds_per_answer, asked_before), datasets, searches, verdicts)
