"""How often annotators wait for the search, with and without asking ahead, in simulated campaigns.

    python -m tests.benchmarks.waits [--classes 1 10 20] [--seeds 10] [--masks 5000] [--json]

Under `--policy target` people work on a campaign by a simulated clock (`tests.benchmarks.shifts`), at made-up masks or
at a campaign's own predictions, whose `--truth` is known:

    python -m tests.benchmarks.waits --policy target --people 1 3 10 50 [--campaign FOLDER --truth FILE]

prints for so many people what share of their time they waited, and how many more questions they answered than the same
people where nothing is asked ahead: a page at a time, and a turn after each.

Under the others, a wait is a turn at the end that publishes under one page per class that is still searching
(`waits`), or per class of the campaign (`waits_of_all`). The same trees and answers serve both ways, and both come to
the same decisions.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from campaign.derived.heldout import heldout
from campaign.records.stage import Stage
from campaign.search.evidence import Policy
from campaign.search.policies import Adaptive, AnnotatorQuality, Paper
from campaign.simulation.annotators import Annotators
from campaign.simulation.populations import sample_population
from campaign.simulation.predictions import pool_of_round
from campaign.simulation.turns import run_turns
from campaign.store import Store
from ml_backend.learning.evaluation import true_iou
from tests.benchmarks.shifts import Right, never_ahead, work_shift
from tests.benchmarks.turns import make_campaign


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


def measure_shifts(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each number of people: those of `Shift`, and how it compares with asking nothing ahead."""
    for people in arguments.people:
        shifts = []
        for work in (never_ahead, work_shift):
            with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
                store, right = campaign_at_verify(arguments, Path(folder))
                store.settings.page.annotators = people if arguments.expected else 1
                shifts.append(work(store, right, people))
        usual, early = shifts
        more = early.questions / max(1, usual.questions) - 1
        compared = {"never_ahead": usual.questions, "more_questions": round(more, 4)}
        yield early.as_dict() | compared | {"never_ahead_masks": usual.masks}


def campaign_at_verify(arguments: argparse.Namespace, folder: Path) -> tuple[Store, Right]:
    """A campaign with a target before its first question, and which of its masks are voted yes."""
    if arguments.campaign is None:
        store, truth = make_campaign(folder, arguments.masks, arguments.classes[0], "target", arguments.heldout)
        ids = np.concatenate([store.trees.mask_ids(1, c) for c in truth])
        yes = np.concatenate([truth[c] for c in truth])
    else:
        store = copied(arguments.campaign, folder, arguments.precision)
        pool, data = pool_of_round(store, arguments.truth, arguments.truth.parent / "images", 1)
        ids, yes = pool.mask_id, true_iou(pool, data, one_to_one=False) >= store.settings.search.k_iou
    known = heldout(store).of_round(1)
    ids = np.concatenate([ids, known["mask_id"]])
    yes = np.concatenate([yes, known["iou"] >= store.settings.search.k_iou])
    order = np.argsort(ids)
    return store, lambda masks: yes[order[np.searchsorted(ids, masks, sorter=order)]]


def copied(campaign: Path, folder: Path, precision: float) -> Store:
    """A copy of a campaign whose first round is clustered, at verify, of one round and with a target."""
    shutil.copytree(campaign, folder / "campaign", ignore=shutil.ignore_patterns("models", "derived"))
    path = folder / "campaign" / "campaign.json"
    content = json.loads(path.read_text())
    settings = content["settings"]
    settings["search"] |= {"policy": "target", "precision": precision}
    settings["rounds"]["rounds"] = 1
    path.write_text(json.dumps(content))
    store = Store.open(folder / "campaign")
    store.rounds.update(1, stage=Stage.VERIFY)
    return store


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=[1, 10, 20])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--masks", type=int, default=5000)
    parser.add_argument(
        "--policies", "--policy", nargs="+", choices=("adaptive", "paper", "target"), default=["adaptive", "paper"]
    )
    parser.add_argument("--errors", type=float, nargs="+", default=[0.0, 0.05])
    parser.add_argument("--pages-a-turn", type=int, help="pages answered between two turns; all by default")
    parser.add_argument("--cache", type=Path, help="folder in which trees are kept for the next time")
    parser.add_argument("--people", type=int, nargs="+", default=[1, 3, 10, 50], help="annotators, for the target")
    parser.add_argument("--expected", action="store_true", help="the lead says how many annotators come")
    parser.add_argument("--campaign", type=Path, help="one whose predictions are asked about; it is copied")
    parser.add_argument("--truth", type=Path, help="COCO file of its pool's true masks, beside the folder `images`")
    parser.add_argument("--precision", type=float, default=0.9, help="of a campaign")
    parser.add_argument("--heldout", type=int, default=1000, help="made-up held-out masks of each class")
    parser.add_argument("--folder", type=Path, help="where to put campaigns; a temporary folder by default")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if "target" in arguments.policies:
        rows = []
        for figures in measure_shifts(arguments):
            rows.append(figures)
            print(json.dumps(figures), file=sys.stderr, flush=True)
    else:
        rows = measure(arguments)
    print(json.dumps(rows) if arguments.json else "\n".join(json.dumps(figures) for figures in rows))


if __name__ == "__main__":
    main()
