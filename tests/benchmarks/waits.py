"""How often annotators wait for the search, with and without asking ahead, in simulated campaigns.

    python -m tests.benchmarks.waits [--classes 1 10 20] [--seeds 10] [--masks 5000] [--json]

A wait is a turn at the end that publishes under one page per class that is still searching (`waits`), or per class of
the campaign (`waits_of_all`). The same trees and answers serve both ways, and both come to the same decisions.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from campaign.search.evidence import Policy
from campaign.search.policies import Adaptive, AnnotatorQuality, Paper
from campaign.simulation.annotators import Annotators
from campaign.simulation.populations import sample_population
from campaign.simulation.turns import run_turns


def row(usual: np.ndarray, early: np.ndarray) -> dict[str, Any]:
    """Means over seeds, and the most, of (questions, turns, waits, waits of all), each (seeds, 4)."""
    figures: dict[str, Any] = {"questions": round(float(usual[:, 0].mean()), 1)}
    figures["more_questions"] = round(float(early[:, 0].sum() / usual[:, 0].sum() - 1), 4)
    figures["more_questions_most"] = round(float((early[:, 0] / usual[:, 0] - 1).max()), 4)
    for i, name in enumerate(("turns", "waits", "waits_of_all"), start=1):
        for way, table in (("", usual), ("_ahead", early)):
            figures[f"{name}{way}"] = round(float(table[:, i].mean()), 1)
            figures[f"{name}{way}_most"] = int(table[:, i].max())
    return figures


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each policy, share of wrong answers and number of classes."""
    tables: dict[tuple[str, float, int], list[tuple[list[int], list[int]]]] = {}
    for seed in range(arguments.seeds):
        population = sample_population([arguments.masks] * max(arguments.classes), seed, cache=arguments.cache)
        thresholds = {c.class_id: c.thresholds(0.75, 0.85) for c in population}
        for name in arguments.policies:
            for error in arguments.errors:
                policy: Policy = Paper()
                if name == "adaptive":
                    policy = Adaptive(annotators=AnnotatorQuality(1 - error, 1 - error))
                for classes in arguments.classes:
                    pair = []
                    for least in (None, classes):
                        turns = run_turns(
                            population[:classes],
                            policy,
                            thresholds,
                            Annotators(error=error),
                            seed=seed,
                            pages_a_turn=arguments.pages_a_turn,
                            least_pages=least,
                        )
                        pair.append([turns.questions, len(turns.published), turns.waits(), turns.waits(classes)])
                    tables.setdefault((name, error, classes), []).append((pair[0], pair[1]))
    rows = []
    for (name, error, classes), pairs in tables.items():
        usual, early = np.array(pairs, np.float64).transpose(1, 0, 2)
        rows.append({"policy": name, "error": error, "classes": classes} | row(usual, early))
    return rows


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=[1, 10, 20])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--masks", type=int, default=5000)
    parser.add_argument("--policies", nargs="+", choices=("adaptive", "paper"), default=["adaptive", "paper"])
    parser.add_argument("--errors", type=float, nargs="+", default=[0.0, 0.05])
    parser.add_argument("--pages-a-turn", type=int, help="pages answered between two turns; all by default")
    parser.add_argument("--cache", type=Path, help="folder in which trees are kept for the next time")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = measure(arguments)
    print(json.dumps(rows) if arguments.json else "\n".join(json.dumps(figures) for figures in rows))


if __name__ == "__main__":
    main()
