"""How fast questions are planned: the searches of many classes, answered in turns, the policy's work under the clock.

    python -m tests.benchmarks.planning [--trees 100] [--masks 10000] [--questions 10000] [--policy adaptive] [--json]

Trees, thresholds and verdicts are made before the clock starts; answering and planning run under it, on one core. As
clustering takes longer than what is measured, `--kinds` classes are clustered and each stands for several, every one
with samples and annotators of its own. `--cache` keeps the trees in a folder for the next time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

from campaign.search.budget import Searches
from campaign.search.evidence import Evidence, Outcome, Policy
from campaign.search.policies import Adaptive, AnnotatorQuality, Paper
from campaign.search.thresholds import Thresholds
from campaign.search.tree_search import Search
from campaign.simulation.annotators import Annotators
from campaign.simulation.populations import ClassPopulation, sample_population

PER_TURN = 150  # answers that arrive between two turns, as in the benchmark of turns


class _Counting:
    """Counts the times a cluster is considered."""

    considered = 0


class _Adaptive(Adaptive):
    def consider(self, evidence: Evidence, thresholds: Thresholds) -> Outcome | int:
        _Counting.considered += 1
        return super().consider(evidence, thresholds)


class _Paper(Paper):
    def consider(self, evidence: Evidence, thresholds: Thresholds) -> Outcome | int:
        _Counting.considered += 1
        return super().consider(evidence, thresholds)


def made_policy(name: str, error: float) -> Policy:
    """The policy of a name, which knows how often annotators err."""
    return _Paper() if name == "paper" else _Adaptive(annotators=AnnotatorQuality(1 - error, 1 - error))


def classes(arguments: argparse.Namespace) -> tuple[list[ClassPopulation], dict[int, Thresholds]]:
    """The clustered classes and their thresholds, by class."""
    population = sample_population([arguments.masks] * arguments.kinds, arguments.seed, cache=arguments.cache)
    return population, {c.class_id: c.thresholds(0.75, 0.85) for c in population}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Plans until so many questions are asked, or until the searches end; returns figures."""
    population, thresholds = classes(arguments)
    annotators = Annotators(error=arguments.error)
    policy = made_policy(arguments.policy, arguments.error)
    searches, verdicts = {}, {}
    for key in range(arguments.trees):
        kind = population[key % arguments.kinds]
        searches[key] = Search(kind.tree, policy, thresholds[kind.class_id], arguments.seed + key)
        verdicts[key] = annotators.verdicts(kind.iou, arguments.seed * 1009 + key).tolist()
    together = Searches(searches, arguments.questions)
    waiting: deque[tuple[int, int]] = deque()
    asked: list[tuple[int, int]] = []
    turns: list[float] = []
    _Counting.considered = 0
    began = time.process_time()
    while not together.done:
        turn = time.process_time()
        for _ in range(min(PER_TURN, len(waiting))):
            key, leaf = waiting.popleft()
            together.answer(key, leaf, verdicts[key][leaf])
        fresh = [(key, leaf) for key, ask in together.step(arguments.open) for leaf in ask.leaves]
        waiting.extend(fresh)
        asked += fresh
        turns.append(time.process_time() - turn)
    seconds = time.process_time() - began
    decisions = sum(len(search.decisions) for search in searches.values())
    digest = hashlib.blake2b(np.array(asked, np.int64).tobytes(), digest_size=8)
    for search in searches.values():
        digest.update(repr([(d.cluster, d.kind, d.asked, d.yes) for d in search.decisions]).encode())
    return {
        "seconds": round(seconds, 3),
        "questions": len(asked),
        "decisions": decisions,
        "considered": _Counting.considered,
        "considered_per_second": round(_Counting.considered / seconds),
        "turns": len(turns),
        "turn_seconds_p95": round(float(np.quantile(turns, 0.95)), 4),
        "first_turn_seconds": round(turns[0], 3),
        "policy": arguments.policy,
        "trees": arguments.trees,
        "masks": arguments.masks,
        "error": arguments.error,
        "peak_rss_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "digest": digest.hexdigest(),
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trees", type=int, default=100)
    parser.add_argument("--masks", type=int, default=10_000)
    parser.add_argument("--questions", type=int, default=10_000)
    parser.add_argument("--kinds", type=int, default=10)
    parser.add_argument("--policy", choices=("adaptive", "paper"), default="adaptive")
    parser.add_argument("--error", type=float, default=0.05)
    parser.add_argument("--open", type=int, help="open questions up to which clusters are opened; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result = measure(arguments)
    print(json.dumps(result) if arguments.json else "\n".join(f"{k}: {v}" for k, v in result.items()))


if __name__ == "__main__":
    main()
