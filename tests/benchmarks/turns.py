"""What a turn costs as a campaign grows: `python -m tests.benchmarks.turns --masks 1000000 --classes 100`.

A campaign at verify without Label Studio: random trees over masks whose truth is known, stored pages, stored answers.
Each turn reads about 150 new answers, decides, and stores the pages that follow, exactly as `campaign.steps.verify`
does. Prints, with --json as one object:

    turn_seconds_p50, turn_seconds_p95   of all turns but the first
    first_turn_seconds                   with nothing known yet: every tree is opened and its first pages are planned
    takeover_seconds                     one turn of a process that has never seen the campaign, at its end
    rebuild_seconds                      the same after all snapshots were dropped
    status_seconds                       `campaign status` at the end, in a process that has the views loaded
    peak_rss_gib                         of the process that ran all turns
    growth                               median turn of the last tenth of the answers to that of the first tenth

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
from pathlib import Path

import numpy as np
from PIL import Image

from campaign.clustering import Tree
from campaign.derived.status import status
from campaign.records.page import PageKind
from campaign.search.sampling import draw_keys
from campaign.settings import CampaignSettings
from campaign.steps.verify import decide, save_views
from campaign.store import Store
from ml_backend.mask_ids import mask_id
from ml_backend.masks.coco import CocoDataset, ImageRecord
from ml_backend.predictions import Predictions

NEW_ANSWERS = 150  # of one turn
ROWS = 1 << 16  # masks of one made-up shard


def random_tree(n: int, rng: np.random.Generator) -> tuple[Tree, np.ndarray]:
    """A tree over n masks whose clusters are the purer the lower they are, and the truth of each mask."""
    quality = np.clip(rng.beta(0.6, 0.5, size=max(1, n // 50)), 0.02, 0.98)
    group = np.sort(rng.integers(0, len(quality), n))
    correct = rng.random(n) < quality[group]
    score = np.clip(0.25 + 0.6 * quality[group] + rng.normal(0, 0.08, n), 0.01, 0.99).astype(np.float32)
    merges = np.empty((n - 1, 4))
    size = {i: 1 for i in range(n)}
    level, height, row = list(range(n)), 0.0, 0
    while len(level) > 1:
        above = []
        for left, right in zip(level[::2], level[1::2], strict=False):
            height += 1e-6
            size[n + row] = size[left] + size[right]
            merges[row] = left, right, height + len(level) ** -0.5, size[n + row]
            above.append(n + row)
            row += 1
        if len(level) % 2:
            above.append(level[-1])
        level = above
    return Tree.build(merges, score), correct


def make_campaign(folder: Path, masks: int, classes: int, policy: str) -> tuple[Store, dict[int, np.ndarray]]:
    """A campaign at verify and the truth of every mask by class; only the trees and the database are real."""
    names = {c: f"class {c}" for c in range(1, classes + 1)}
    folder.mkdir(parents=True, exist_ok=True)
    picture = folder / "a.png"
    Image.new("RGB", (64, 64)).save(picture)
    pool = CocoDataset([ImageRecord(1, "a.png", 64, 64, picture)], names)
    settings = CampaignSettings(name="turns", search={"policy": policy}, quality={"gold_share": 0.0})
    store = Store.create(folder / "campaign", settings, {"pool": pool})
    store.rounds.start(1, "verify")
    store.masks.save_shard(1, "pool", 0, Predictions.empty(), 1, 0.0)
    truth: dict[int, np.ndarray] = {}
    rng = np.random.default_rng(0)
    first = 0
    for class_id in names:
        n = masks // classes
        tree, truth[class_id] = random_tree(n, rng)
        tree.save(store.trees.folder(1, class_id))
        rows = np.arange(first, first + n)
        ids = mask_id(1, 0, 0) + ((rows // ROWS) << 20) + rows % ROWS
        store.trees.save(1, class_id, ids, 0, {"k_pr": 0.05, "k_pa": 0.1, "note": "", "curves": None})
        first += n
    return store, truth


class Annotator:
    """Answers stored pages in the order they were opened, by the truth; one in thirty answers is wrong."""

    def __init__(self, store: Store, truth: dict[int, np.ndarray]):
        self.store, self.truth = store, truth
        self.waiting: deque[tuple[str, int, list[int]]] = deque()
        self.page = self.annotation = self.answers = 0
        self._ids = {c: store.trees.mask_ids(1, c) for c in truth}

    def collect(self) -> None:
        """Takes up the pages that were opened since."""
        pages: dict[str, tuple[int, list[int]]] = {}
        for a in self.store.questions.after(self.page):
            self.page = max(self.page, a.number)
            if a.kind == PageKind.VERIFY:
                pages.setdefault(a.page_key, (a.class_id, []))[1].append(a.mask_id)
        self.waiting += [(key, class_id, masks) for key, (class_id, masks) in pages.items()]

    def answer(self, count: int) -> int:
        """Stores answers to about `count` questions; returns how many."""
        rows: list[dict] = []
        while self.waiting and len(rows) < count:
            key, class_id, masks = self.waiting.popleft()
            self.annotation += 1
            leaves = np.searchsorted(self._ids[class_id], masks)
            wrong = draw_keys(1, class_id, leaves) % 30 == 0
            stamp = f"2026-01-01T00:00:00.{self.annotation % 10**6:06d}Z"
            rows += [
                {
                    "page_key": key, "annotation_id": self.annotation, "mask_id": mask, "annotator": "1",
                    "verdict": "yes" if right != flip else "no", "answered_at": stamp, "lead_time": 20.0,
                }
                for mask, right, flip in zip(masks, self.truth[class_id][leaves], wrong, strict=True)
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
    store, truth = make_campaign(folder, options.masks, options.classes, options.policy)
    started = time.perf_counter()
    one_turn(store)
    first = time.perf_counter() - started
    people = Annotator(store, truth)
    people.collect()
    seconds: list[float] = []
    done = False
    while people.answers < options.answers and not done and people.answer(NEW_ANSWERS):
        if options.fresh:
            store = Store.open(store.folder)
        started = time.perf_counter()
        done = one_turn(store)
        seconds.append(time.perf_counter() - started)
        people.store = store
        people.collect()
        if len(seconds) % 50 == 0 and not options.json:
            print(f"{people.answers} answers, turn {np.median(seconds[-50:]):.3f} s", file=sys.stderr)
    people.answer(NEW_ANSWERS)
    takeover = _elsewhere(store.folder, "turn")
    started = time.perf_counter()
    status(store)
    state = time.perf_counter() - started
    people.answer(NEW_ANSWERS)
    rebuild = _elsewhere(store.folder, "rebuild")
    tenth = max(1, len(seconds) // 10)
    return {
        "turn_seconds_p50": round(float(np.median(seconds)), 4),
        "turn_seconds_p95": round(float(np.quantile(seconds, 0.95)), 4),
        "first_turn_seconds": round(first, 3),
        "takeover_seconds": takeover["seconds"],
        "rebuild_seconds": rebuild["seconds"],
        "status_seconds": round(state, 4),
        "peak_rss_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3),
        "growth": round(float(np.median(seconds[-tenth:]) / np.median(seconds[:tenth])), 3),
        "turns": len(seconds),
        "answers": people.answers,
        "masks": options.masks,
        "classes": options.classes,
        "policy": options.policy,
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
