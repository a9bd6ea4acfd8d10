"""What the lead waits for: `python -m tests.benchmarks.pages --masks 1000000 --classes 100 --answers 100000`.

A campaign at verify as `tests.benchmarks.turns` makes it, with answered pages written to the database in bulk, a
tenth of their masks gold. Prints milliseconds, with --json as one object; those with `_cpu` are the processor's alone:

    status_cold, status_warm       `campaign status` in a process, at the first call and at the second
    overview_cold, overview_warm   GET /lead/ at the first call and at the second
    overview_new_facts             GET /lead/ after one more page was answered
    pace_new_facts                 the time of all answers, as a budget in hours needs it, after one more page
    pace_from_scratch              the same where no snapshot is left
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
from sqlalchemy import insert

from campaign.derived.live import live
from campaign.derived.pace import campaign_pace, work
from campaign.derived.status import status
from campaign.store import Store
from campaign.store import models as m
from tests.benchmarks.turns import make_campaign

USERS, SIZE, GOLD = 5, 15, 0.1
START = datetime(2026, 1, 1, tzinfo=timezone.utc)


def add_answered(store: Store, truth: dict[int, np.ndarray], answers: int, first: int = 0) -> None:
    """Stores pages `first` on with so many answers in all, written in bulk; each class has its share of them."""
    rng = np.random.default_rng(first)
    classes, pages, questions, facts = sorted(truth), [], [], []
    ids = {c: store.trees.mask_ids(1, c) for c in classes}
    order = {c: np.random.default_rng(c).permutation(len(ids[c])) for c in classes}
    for number in range(first, first + max(1, answers // SIZE)):
        class_id = classes[number % len(classes)]
        start = number // len(classes) * SIZE
        leaves = order[class_id][start : start + SIZE]
        key, user = f"{store.key}-p{number}", int(rng.integers(USERS)) + 1
        at = (START + timedelta(seconds=22 * number)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        pages.append({"key": key, "number": number + 1, "round": 1, "class_id": class_id, "task_id": number + 1})
        for leaf, is_gold, errs in zip(leaves, rng.random(SIZE) < GOLD, rng.random(SIZE) < 0.03, strict=False):
            mask, right = int(ids[class_id][leaf]), bool(truth[class_id][leaf])
            gold = ("yes" if right else "no") if is_gold else None
            questions.append({"page_key": key, "mask_id": mask, "cluster": None, "gold": gold})
            facts.append(
                {
                    "page_key": key, "annotation_id": number + 1, "mask_id": mask, "annotator": str(user),
                    "verdict": "yes" if right != errs else "no", "answered_at": at, "lead_time": 20.0,
                }
            )  # fmt: skip
    with store.session() as session:
        for table, rows in ((m.Page, pages), (m.Question, questions), (m.Answer, facts)):
            session.execute(insert(table), rows)


def timed(name: str, call: Callable[[], object]) -> dict[str, float]:
    """How long a call takes, and how long it keeps the processor."""
    started, cpu = time.perf_counter(), time.process_time()
    call()
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    return {name: round(1000 * wall, 1), f"{name}_cpu": round(1000 * cpu, 1)}


def measure(folder: Path, what: str) -> dict[str, float]:
    """Cold and warm figures of one process."""
    store = Store.open(folder)
    if what == "status":
        return timed("status_cold", lambda: status(store)) | timed("status_warm", lambda: status(store))
    if what == "pace":
        store.views.drop("work")
        return timed("pace_from_scratch", lambda: campaign_pace(store))
    from campaign.web.lead import mount
    from campaign.web.lead.login import lead_password
    from campaign.web.serving import StoreCrops
    from ml_backend.server.app import create_app

    app = create_app(StoreCrops(store), secret=store.secret("crop_key"))
    mount(app, store)
    browser = app.test_client()
    token = browser.get("/lead/login").text.partition('name="token" value="')[2].partition('"')[0]
    browser.post("/lead/login", data={"token": token, "user": "lead", "password": lead_password(store)})

    def overview() -> None:
        page = browser.get("/lead/")
        assert page.status_code == 200, page.status_code

    results = timed("overview_cold", overview) | timed("overview_warm", overview)
    page = store.pages.rows()[0]
    for n, name in enumerate(("overview_new_facts", "pace_new_facts")):
        rows = [
            {
                "page_key": page.key, "annotation_id": 10**6 + n, "mask_id": q.mask_id, "annotator": "9",
                "verdict": "yes", "answered_at": "2026-06-01T00:00:00.000000Z", "lead_time": 20.0,
            }
            for q in store.questions.on_pages([page.key])
        ]  # fmt: skip
        store.answers.add(rows)
        results |= timed(name, overview if name.startswith("overview") else lambda: campaign_pace(store))
    return results


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--masks", type=int, default=1_000_000)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--answers", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="where to put the campaign; a temporary folder by default")
    parser.add_argument("--one", choices=["status", "overview", "pace"], help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.folder, options.one)))
        return
    folder = Path(tempfile.mkdtemp(prefix="pages-", dir=options.folder))
    store, truth = make_campaign(folder, options.masks, options.classes, "paper")
    add_answered(store, truth, options.answers)
    with store.locked():
        views = live(store)
        views.views(1)
        views.save()
        work(store).save()
    results: dict[str, float] = {}
    for what in ("status", "overview", "pace"):
        command = [sys.executable, "-m", "tests.benchmarks.pages", "--one", what, "--folder", str(store.folder)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        results |= json.loads(done.stdout)
    print(json.dumps(results) if options.json else "\n".join(f"{k:>20} {v}" for k, v in results.items()))


if __name__ == "__main__":
    main()
