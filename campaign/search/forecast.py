"""Budgets in questions, hours or money, and a forecast of what the questions that are left would buy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from campaign.records.decision import Kind
from campaign.records.verdict import Verdict
from campaign.search.budget import Searches
from campaign.search.policies.adaptive import Adaptive
from campaign.search.policies.prior import LOGITS, Prior
from campaign.search.tree_search import Search
from ml_backend.errors import InputError


@dataclass(frozen=True)
class Budget:
    """What a campaign may spend; the tightest limit holds, None is no limit.

    `seconds_per_answer` turns hours into questions, `money_per_hour` money into hours.
    """

    questions: int | None = None
    hours: float | None = None
    money: float | None = None
    seconds_per_answer: float = 2.0
    money_per_hour: float | None = None

    def __post_init__(self) -> None:
        for name in ("questions", "hours", "money"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise InputError(name, "no less than 0", value)
        if self.seconds_per_answer <= 0:
            raise InputError("seconds_per_answer", "a positive number of seconds", self.seconds_per_answer)
        if self.money is not None and (self.money_per_hour is None or self.money_per_hour <= 0):
            raise InputError("money_per_hour", "what an annotator's hour costs", self.money_per_hour)

    def as_questions(self, worked: float = 0.0, answered: int = 0) -> int | None:
        """The questions that may be asked in all, where so many seconds were worked on so many already."""
        limits = [self.questions] if self.questions is not None else []
        hours = [self.hours] if self.hours is not None else []
        if self.money is not None and self.money_per_hour:
            hours.append(self.money / self.money_per_hour)
        limits += [answered + int(max(0.0, h * 3600 - worked) / self.seconds_per_answer) for h in hours]
        return min(limits, default=None)


@dataclass(frozen=True)
class Prospect:
    """After `questions` more questions the data set is expected to hold `masks` more, most likely `low` to `high`."""

    questions: int
    masks: float
    low: float
    high: float


def forecast(
    searches: Mapping[int, Search], questions: int, *, points: int = 10, draws: int = 8, seed: int = 0
) -> list[Prospect]:
    """What up to `questions` more questions would bring, at `points` marks.

    The searches of all classes are carried on, as they are, against answers drawn from what is believed of their
    undecided clusters: `draws` times. Early marks are best known, and a forecast is only as good as the prior. It ends
    early where the policy has nothing more to ask.
    """
    if questions < 1 or points < 1 or draws < 1:
        raise InputError("forecast", "at least one question, point and draw", (questions, points, draws))
    marks = np.unique(np.linspace(0, questions, points + 1).astype(int)[1:])
    rng = np.random.default_rng((seed, 31))
    gained = np.stack([_carry_on(searches, marks, rng) for _ in range(draws)])
    spread = np.quantile(gained[:, 1:], [0.1, 0.9], axis=0)
    reached = float(gained[:, 0].mean())  # questions that were asked before the searches ended
    prospects = []
    for i, mark in enumerate(marks.tolist()):
        low, high = spread[:, i].tolist()
        prospects.append(Prospect(int(min(mark, reached)), float(gained[:, 1 + i].mean()), low, high))
        if mark >= reached:
            break
    return prospects


def _carry_on(searches: Mapping[int, Search], marks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Questions asked and masks gained at each mark, (1 + marks,), against one draw of the truth."""
    truth = {key: _imagine(search, rng) for key, search in searches.items()}
    forks = {key: search.fork() for key, search in searches.items()}
    waiting = [(key, leaf) for key, fork in forks.items() for ask in fork.open for leaf in ask.leaves]
    together = Searches(forks, sum(s.questions for s in forks.values()) + int(marks[-1]))
    before = together.questions
    seen = {key: len(fork.decisions) for key, fork in forks.items()}
    voted: dict[int, set[int]] = {key: set() for key in forks}
    gained, course = 0, [(0, 0)]

    def vote(key: int, leaf: int) -> int:
        together.answer(key, leaf, Verdict(int(truth[key][leaf])))
        voted[key].add(leaf)
        return int(truth[key][leaf])

    gained += sum(vote(key, leaf) for key, leaf in waiting)
    while not together.done:
        for key, ask in together.step(limit=1):
            gained += sum(vote(key, leaf) for leaf in ask.leaves)
        for key, fork in forks.items():
            for decision in fork.decisions[seen[key] :]:
                if decision.kind == Kind.ACCEPT:
                    members = fork.tree.members(decision.cluster).tolist()
                    gained += sum(leaf not in voted[key] and fork.verdict(leaf) is None for leaf in members)
            seen[key] = len(fork.decisions)
        course.append((together.questions - before, gained))
    table = np.array(course)
    at = np.searchsorted(table[:, 0], marks, side="right") - 1
    return np.concatenate([[table[-1, 0]], table[at, 1]])


def _imagine(search: Search, rng: np.random.Generator) -> np.ndarray:
    """Correctness of all masks, (n,) bool, drawn from the belief in the undecided clusters; False elsewhere."""
    tree, prior = search.tree, search.thresholds.prior or Prior()
    correct = np.zeros(tree.n, bool)
    policy = search.policy if isinstance(search.policy, Adaptive) else Adaptive()
    score = np.clip(np.asarray(tree.mean_score), 0.005, 0.995)
    mean = prior.level + prior.slope * np.log(score / (1 - score)) + prior.tilt * np.asarray(tree.height)
    spread = np.clip(np.exp(prior.width + prior.narrowing * np.asarray(tree.height)), 0.3, 4.0)
    children, logit = np.asarray(tree.children), np.zeros(len(tree.parent))
    roots = []
    for evidence in search.undecided():
        density = policy.density(evidence, search.thresholds)
        logit[evidence.cluster] = rng.choice(LOGITS, p=density / density.sum())
        roots.append(evidence.cluster)
    level = np.array(roots, int)
    while len(level):
        level = level[children[level, 0] >= 0]
        for side in (0, 1):
            below = children[level, side]
            stray = np.sqrt(np.maximum(spread[below] ** 2 - spread[level] ** 2, 0.01))
            logit[below] = logit[level] + mean[below] - mean[level] + rng.normal(0, 1, len(below)) * stray
        level = children[level].ravel()
    for cluster in roots:
        leaves = np.asarray(tree.members(cluster))
        correct[leaves] = rng.random(len(leaves)) < _levelled(logit[leaves], 1 / (1 + np.exp(-logit[cluster])))
    return correct


def _levelled(logit: np.ndarray, quality: float) -> np.ndarray:
    """Chances with these logits, moved together until their mean is the cluster's quality."""
    low, high = -30.0, 30.0
    for _ in range(30):
        middle = (low + high) / 2
        if np.mean(1 / (1 + np.exp(-np.clip(logit + middle, -50, 50)))) < quality:
            low = middle
        else:
            high = middle
    return 1 / (1 + np.exp(-np.clip(logit + low, -50, 50)))
