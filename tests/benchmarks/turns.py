"""What a turn costs as a campaign grows: `python -m tests.benchmarks.turns --masks 1000000 --classes 100`.

A campaign at verify without Label Studio: random trees over masks whose truth is known, stored pages, stored answers.
Each turn reads about 150 new answers, decides, and stores the pages that follow, exactly as `campaign.steps.verify`
does. Prints, with --json as one object:

    turn_seconds_p50, turn_seconds_p95   of all turns but the first
    prepare_seconds                      what the step before the first turn takes, under `--policy target`
    first_turn_seconds                   with nothing known yet: every tree is opened and its first pages are planned
    takeover_seconds                     one turn of a process that has never seen the campaign, at its end
    rebuild_seconds                      the same after all snapshots were dropped
    status_seconds                       `campaign status` at the end, in a process that has the views loaded
    peak_rss_gib                         of the process that ran all turns
    growth                               median turn of the last tenth of the answers to that of the first tenth
    turn_cpu_seconds_p50, turn_seconds_most, turn_cpu_seconds_most   processor time, and the longest turn

Under `--policy target` the masks lie in stored shards, with features, rivals and held-out masks
(`tests.benchmarks.target_pools`), and gold is hidden among the questions; it is a campaign of one round that learns,
freezes an order and draws from it. `turns_by_part` has the figures of either part.

With --fresh every turn opens the campaign anew, as a worker does that runs each job in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from campaign.clustering import Tree
from campaign.derived.forests import prepare
from campaign.derived.status import status
from campaign.records.page import is_question
from campaign.search.sampling import draw_keys
from campaign.settings import CampaignSettings
from campaign.steps.verify import decide, save_views
from campaign.store import Store
from campaign.store.values import Key
from ml_backend.mask_ids import mask_id
from ml_backend.masks.coco import CocoDataset, ImageRecord
from ml_backend.predictions import Predictions
from tests.benchmarks.target_pools import (
    ROWS,
    group_quality,
    heldout_masks,
    keep_heldout,
    made_up,
    save_masks,
    scores,
    without_second,
)

T = TypeVar("T")
NEW_ANSWERS = 150  # of one turn
USERS = 5
LONG = 2.0  # seconds of a turn that is told
START = datetime(2026, 1, 1, tzinfo=timezone.utc)


def random_tree(score: np.ndarray) -> Tree:
    """A tree over masks in groups that follow each other, whose clusters are the purer the lower they are."""
    n = len(score)
    merges = np.empty((n - 1, 4))
    size = np.ones(2 * n - 1, np.int64)
    level, height, row = np.arange(n), 0.0, 0
    while len(level) > 1:
        left, right = level[: len(level) // 2 * 2 : 2], level[1::2]
        above = n + row + np.arange(len(left))
        size[above] = size[left] + size[right]
        # Merged one after the other, each a little higher than the one before and all below those of the next level.
        heights = height + 1e-6 * np.arange(1, len(left) + 1) + len(level) ** -0.5
        merges[row : row + len(left)] = np.stack([left, right, heights, size[above]], axis=1)
        height, row = height + 1e-6 * len(left), row + len(left)
        level = np.append(above, level[-1:]) if len(level) % 2 else above
    return Tree.build(merges, score)


def make_campaign(
    folder: Path, masks: int, classes: int, policy: str, held: int = 1000
) -> tuple[Store, dict[int, np.ndarray]]:
    """A campaign at verify and the truth of every mask by class; only the trees and the database are real.

    Under the policy of a target the masks are stored too, and `held` held-out ones of each class.
    """
    names = {c: f"class {c}" for c in range(1, classes + 1)}
    folder.mkdir(parents=True, exist_ok=True)
    picture = folder / "a.png"
    Image.new("RGB", (64, 64)).save(picture)
    pool = CocoDataset([ImageRecord(1, "a.png", 64, 64, picture)], names)
    targeted = policy == "target"
    settings = CampaignSettings(
        name="turns", search={"policy": policy}, quality={"gold_share": 0.1 if targeted else 0.0}, rounds={"rounds": 1}
    )
    store = Store.create(folder / "campaign", settings, {"pool": pool})
    store.rounds.start(1, "verify")
    if not targeted:
        store.masks.save_shard(1, "pool", 0, Predictions.empty(), 1, 0.0)
    truth: dict[int, np.ndarray] = {}
    rng = np.random.default_rng(0)
    first, parts = 0, list[Predictions]()
    for class_id in names:
        n = masks // classes
        quality = group_quality(n, rng)
        truth[class_id], score = rng.random(n) < quality, scores(quality, rng)
        if targeted:
            truth[class_id] = without_second(truth[class_id], class_id)
            parts.append(made_up(class_id, quality, truth[class_id], score, rng, 1))
        random_tree(score).save(store.trees.folder(1, class_id))
        rows = np.arange(first, first + n)
        ids = mask_id(1, 0, 0) + ((rows // ROWS) << 20) + rows % ROWS
        store.trees.save(1, class_id, ids, 0, {"k_pr": 0.05, "k_pa": 0.1, "note": "", "curves": None})
        first += n
    if targeted:
        save_masks(store, Predictions.concatenate(parts), "pool")
        known, iou = heldout_masks(list(names), held)
        keep_heldout(store, save_masks(store, known, "heldout"), known, iou)
    return store, truth


class Annotator:
    """Answers stored pages in the order they were opened, by the truth; one in thirty answers is wrong."""

    def __init__(self, store: Store, truth: dict[int, np.ndarray]):
        self.store, self.truth = store, truth
        self.waiting: deque[tuple[str, int, list[tuple[int, str | None]]]] = deque()
        self.page = self.annotation = self.answers = 0
        self._ids = {c: store.trees.mask_ids(1, c) for c in truth}

    def collect(self) -> None:
        """Takes up the pages that were opened since."""
        pages: dict[str, tuple[int, list[tuple[int, str | None]]]] = {}
        for a in self.store.questions.after(self.page):
            self.page = max(self.page, a.number)
            if is_question(a.kind):
                pages.setdefault(a.page_key, (a.class_id, []))[1].append((a.mask_id, a.gold))
        self.waiting += [(key, class_id, masks) for key, (class_id, masks) in pages.items()]

    def answer(self, count: int) -> int:
        """Stores answers to about `count` questions; returns how many."""
        rows: list[dict] = []
        while self.waiting and len(rows) < count:
            key, class_id, shown = self.waiting.popleft()
            self.annotation += 1
            ids = np.array([mask for mask, _ in shown])
            asked = np.array([gold is None for _, gold in shown])
            right = np.array([gold == "yes" for _, gold in shown])
            leaves = np.searchsorted(self._ids[class_id], ids[asked])
            right[asked] = self.truth[class_id][leaves]
            wrong = draw_keys(1, class_id, np.where(asked, np.searchsorted(self._ids[class_id], ids), ids)) % 30 == 0
            stamp = (START + timedelta(seconds=self.annotation)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            rows += [
                {
                    "page_key": key, "annotation_id": self.annotation, "mask_id": mask,
                    "annotator": str(1 + self.annotation % USERS), "verdict": "yes" if yes else "no",
                    "answered_at": stamp, "lead_time": 20.0,
                }
                for mask, yes in zip(ids.tolist(), (right != wrong).tolist(), strict=True)
            ]  # fmt: skip
        self.answers += self.store.answers.add(rows)
        return len(rows)


def one_turn(store: Store) -> bool:
    """The part of a turn between reading and publishing; returns whether the search is done."""
    with store.locked():
        done = decide(store, 1).done
        save_views(store)
    return done


def run(options: argparse.Namespace) -> dict:
    """Drives one campaign to `--answers` answers."""
    folder = Path(tempfile.mkdtemp(prefix="turns-", dir=options.folder))
    store, truth = make_campaign(folder, options.masks, options.classes, options.policy, options.heldout)
    prepared = _seconds(partial(prepare, store, 1))[0] if options.policy == "target" else 0.0
    first, _, _ = _seconds(partial(one_turn, store))
    people = Annotator(store, truth)
    people.collect()
    table: list[tuple[str, float, float]] = []
    done = False
    while people.answers < options.answers and not done and people.answer(NEW_ANSWERS):
        if options.fresh:
            store = Store.open(store.folder)
        part = "learning" if store.values.get(Key.PROMISE) is None else "draws"
        wall, cpu, done = _seconds(partial(one_turn, store))
        table.append((part, wall, cpu))
        people.store = store
        people.collect()
        if (len(table) % 50 == 0 or wall > LONG) and not options.json:
            last = np.median([wall for _, wall, _ in table[-50:]])
            print(f"{people.answers} answers, {part}, turns {last:.3f} s, last {wall:.2f} s", file=sys.stderr)
    people.answer(NEW_ANSWERS)
    takeover = _elsewhere(store.folder, "turn")
    started = time.perf_counter()
    status(store)
    state = time.perf_counter() - started
    people.answer(NEW_ANSWERS)
    rebuild = _elsewhere(store.folder, "rebuild")
    seconds, tenth = [wall for _, wall, _ in table], max(1, len(table) // 10)
    return {
        **_figures(table),
        "turns_by_part": {p: _figures([row for row in table if row[0] == p]) for p in ("learning", "draws")},
        "prepare_seconds": round(prepared, 3),
        "first_turn_seconds": round(first, 3),
        "takeover_seconds": takeover["seconds"],
        "rebuild_seconds": rebuild["seconds"],
        "status_seconds": round(state, 4),
        "peak_rss_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3),
        "growth": round(float(np.median(seconds[-tenth:]) / np.median(seconds[:tenth])), 3),
        "answers": people.answers,
        "masks": options.masks,
        "classes": options.classes,
        "policy": options.policy,
    }


def _seconds(work: Callable[[], T]) -> tuple[float, float, T]:
    """(seconds by the clock, of the processor, what came out)."""
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    result = work()
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    return wall, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, result


def _figures(table: list[tuple[str, float, float]]) -> dict:
    """Quantiles of turns."""
    if not table:
        return {"turns": 0}
    wall, cpu = (np.array([row[i] for row in table]) for i in (1, 2))
    return {
        "turns": len(table),
        "turn_seconds_p50": round(float(np.median(wall)), 4),
        "turn_seconds_p95": round(float(np.quantile(wall, 0.95)), 4),
        "turn_seconds_most": round(float(wall.max()), 3),
        "turn_cpu_seconds_p50": round(float(np.median(cpu)), 4),
        "turn_cpu_seconds_most": round(float(cpu.max()), 3),
    }


def _elsewhere(folder: Path, what: str) -> dict:
    """One turn in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.turns", "--one", what, "--folder", str(folder), "--json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--masks", type=int, default=1_000_000)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--heldout", type=int, default=1000, help="held-out masks of each class, for the target")
    parser.add_argument("--answers", type=int, default=100_000)
    parser.add_argument("--policy", default="adaptive")
    parser.add_argument("--fresh", action="store_true", help="open the campaign anew for every turn")
    parser.add_argument("--folder", type=Path, help="where to put the campaign; a temporary folder by default")
    parser.add_argument("--one", choices=["turn", "rebuild"], help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.one:
        store = Store.open(options.folder)
        if options.one == "rebuild":
            store.views.drop()
        started = time.perf_counter()
        one_turn(store)
        result = {"seconds": round(time.perf_counter() - started, 3)}
    else:
        result = run(options)
    print(json.dumps(result) if options.json else "\n".join(f"{k:>20} {v}" for k, v in result.items()))


if __name__ == "__main__":
    main()
