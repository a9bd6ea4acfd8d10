"""What the lead waits for: `python -m tests.benchmarks.lead --masks 10000000 --classes 10 --answers 250000`.

A campaign at verify without Label Studio: stored shards with features, trees, pages and answers, decided by the turns
that production runs. Then each page is asked for as a browser does, through the campaign's own server without a
network, and the report is made. Prints, with --json as one object:

    start                from an empty process to a server that answers, imports not counted
    pages                of every page of the lead: `first` in a process that has seen nothing, `again` where nothing
                         changed, and `news` after a turn with new answers; and its `kib`
    report               `first`, `again` and `news` for the report, and the `kib` of its file
    store                rows of decisions, questions and answers, shards and images; seconds to make it
    peak_rss_gib         of the process that served

Times are seconds by the clock and of the processor: [2.1, 0.9] on a machine that has other things to do.
With --keep FOLDER the campaign is made there once and measured again by later calls.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sqlalchemy import func, insert, select

from campaign.settings import CampaignSettings
from campaign.store import Store
from campaign.store import models as m
from ml_backend.mask_ids import mask_id
from ml_backend.masks.coco import CocoDataset, ImageRecord
from tests.benchmarks.target_pools import SIDE, group_quality, made_up, scores, without_second
from tests.benchmarks.turns import Annotator, one_turn, random_tree

ROWS = 4096  # masks of a shard
OF_TURN = 5000  # answers of a turn while the campaign is made
IMAGES_AT_ONCE = 50_000
TRUTH = "truth.npz"


def make_campaign(folder: Path, masks: int, classes: int, answers: int, policy: str) -> Store:
    """A campaign at verify with so many masks and answers."""
    names = {c: f"class {c}" for c in range(1, classes + 1)}
    folder.mkdir(parents=True, exist_ok=True)
    picture = folder / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), np.uint8)).save(picture)
    pool = CocoDataset([ImageRecord(1, "a.png", SIDE, SIDE, picture)], names)
    settings = CampaignSettings(
        name="lead", search={"policy": policy}, quality={"gold_share": 0.0, "wage_per_hour": 20},
        page={"public_url": "http://127.0.0.1:9090"},
    )  # fmt: skip
    store = Store.create(folder / "campaign", settings, {"pool": pool})
    store.rounds.start(1, "verify")
    rng, shard, truth, last_image = np.random.default_rng(0), 0, dict[str, np.ndarray](), 1
    for class_id in names:
        n = masks // classes
        quality = group_quality(n, rng)
        correct, score = without_second(rng.random(n) < quality, class_id), scores(quality, rng)
        truth[str(class_id)] = correct
        random_tree(score).save(store.trees.folder(1, class_id))
        rows = np.arange(n)
        ids = mask_id(1, shard, 0) + (rows // ROWS << 20) + rows % ROWS
        store.trees.save(1, class_id, ids, 0, {"k_pr": 0.05, "k_pa": 0.1, "note": "", "curves": None})
        made = made_up(class_id, quality, correct, score, rng, 1)
        last_image = max(last_image, int(made.image_id.max()))
        for start in range(0, n, ROWS):
            part = made.select(slice(start, start + ROWS))  # type: ignore[arg-type]
            store.masks.save_shard(1, "pool", shard, part, len(np.unique(part.image_id)), 0.0)
            shard += 1
    add_images(store, last_image, picture)
    np.savez(folder / TRUTH, **truth)
    one_turn(store)
    people = Annotator(store, {int(c): t for c, t in truth.items()})
    people.collect()
    while people.answers < answers and people.answer(OF_TURN):
        one_turn(store)
        people.collect()
    return store


def add_images(store: Store, last: int, picture: Path) -> None:
    """Rows of the images from the second on, all of one file."""
    with store.session() as session:
        for start in range(2, last + 1, IMAGES_AT_ONCE):
            rows = [
                {
                    "id": i, "split": "pool", "coco_id": i, "file_name": f"{i}.png", "path": str(picture),
                    "width": SIDE, "height": SIDE,
                }
                for i in range(start, min(start + IMAGES_AT_ONCE, last + 1))
            ]  # fmt: skip
            session.execute(insert(m.Image), rows)


def news(folder: Path) -> None:
    """A turn with new answers, as another process would take it."""
    store = Store.open(folder / "campaign")
    with np.load(folder / TRUTH) as stored:
        truth = {int(c): stored[c] for c in stored.files}
    people = Annotator(store, truth)
    with store.session() as session:
        people.annotation = session.scalar(select(func.max(m.Answer.annotation_id))) or 0
        answered = set(session.scalars(select(m.Answer.page_key).distinct()))
    people.collect()
    people.waiting = type(people.waiting)(w for w in people.waiting if w[0] not in answered)
    people.answer(150)
    one_turn(store)


class Lead:
    """A browser that is logged in."""

    def __init__(self, app: Any, store: Store):
        from campaign.web.lead.login import lead_password

        self.browser = app.test_client()
        login = self.browser.get("/lead/login")
        token = re.search(r'name="token" value="([^"]+)"', login.text)
        assert token is not None
        form = {"token": token[1], "user": "lead", "password": lead_password(store)}
        self.browser.post("/lead/login", data=form)

    def get(self, path: str) -> tuple[list[float], float]:
        """(times, KiB) of a page."""
        seconds, page = timed(lambda: self.browser.get(f"/lead/{path}"))
        if page.status_code != 200:
            raise SystemExit(f"/lead/{path}: {page.status}")
        return seconds, len(page.data) / 1024


def timed(work: Callable[[], Any]) -> tuple[list[float], Any]:
    """([seconds by the clock, of the processor], what came out)."""
    started, cpu = time.perf_counter(), time.process_time()
    result = work()
    return [round(time.perf_counter() - started, 3), round(time.process_time() - cpu, 3)], result


def paths(store: Store) -> dict[str, str]:
    """The pages that are asked for: the largest class, its root and a small cluster, and a mask."""
    tree = max(store.trees.rows(1), key=lambda t: t.masks)
    ids = store.trees.mask_ids(1, tree.class_id)
    root = 2 * tree.masks - 2
    place = f"1/{tree.class_id}"
    return {
        "overview": "", "tree": f"trees/{place}", "root": f"clusters/{place}/{root}",
        "cluster": f"clusters/{place}/{root - 4000}", "mask": f"masks/{ids[len(ids) // 2]}", "now": "now",
        "alike": f"masks/{ids[len(ids) // 2]}/alike",
    }  # fmt: skip


def measure(folder: Path) -> dict[str, Any]:
    """The figures of a campaign that is there."""
    from campaign.report import report_data, write_report
    from campaign.web.lead import mount
    from campaign.web.serving import StoreCrops
    from ml_backend.server.app import create_app

    def start() -> tuple[Store, Lead]:
        store = Store.open(folder / "campaign")
        app = create_app(StoreCrops(store), secret=store.secret("crop_key"))
        mount(app, store)
        return store, Lead(app, store)

    started, (store, lead) = timed(start)
    pages: dict[str, dict[str, Any]] = {}
    wanted = paths(store)
    for name, path in wanted.items():
        seconds, kib = lead.get(path)
        pages[name] = {"first": seconds, "again": lead.get(path)[0], "kib": round(kib, 1)}
    file = folder / "report.html"

    def report() -> list[float]:
        return timed(lambda: write_report(file, report_data(Store.open(folder / "campaign"))))[0]

    made = {"first": report(), "again": report()}
    command = [sys.executable, "-m", "tests.benchmarks.lead", "--news", str(folder)]
    subprocess.run(command, check=True)
    for name, path in wanted.items():
        pages[name]["news"] = lead.get(path)[0]
    return {
        "start": started,
        "pages": pages,
        "report": made | {"news": report(), "kib": round(file.stat().st_size / 1024, 1)},
        "peak_rss_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3),
        "store": sizes(store),
    }


def sizes(store: Store) -> dict[str, int]:
    """Rows of the tables."""
    tables = {"decisions": m.Decision, "questions": m.Question, "answers": m.Answer, "shards": m.Shard}
    with store.session() as session:
        rows = {n: session.scalar(select(func.count()).select_from(t)) or 0 for n, t in tables.items()}
    return rows | {"images": store.images.count("pool")}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--masks", type=int, default=1_000_000)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--answers", type=int, default=50_000)
    parser.add_argument("--policy", default="adaptive", choices=["adaptive", "paper", "curtailed"])
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="make the campaign here, or measure the one here")
    parser.add_argument("--news", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.news:
        news(options.news)
        return
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return
    with tempfile.TemporaryDirectory(prefix="lead-") as temporary:
        folder = options.keep or Path(temporary) / "a"
        made = 0.0
        if not (folder / "campaign" / "campaign.json").exists():
            sizes_of = options.masks, options.classes, options.answers, options.policy
            made = timed(lambda: make_campaign(folder, *sizes_of))[0][0]
        command = [sys.executable, "-m", "tests.benchmarks.lead", "--measure", str(folder)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        result = json.loads(done.stdout)
    result |= {"masks": options.masks, "classes": options.classes, "policy": options.policy}
    result["store"]["seconds"] = round(made, 1)
    print(json.dumps(result) if options.json else json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
