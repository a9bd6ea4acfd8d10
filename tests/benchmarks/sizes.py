"""What each store takes, in bytes of a mask, an image, a page, an answer and a job.

    python -m tests.benchmarks.sizes --coco labelled.json --json

A pool of --images with ten known masks each (`tests.benchmarks.scale_pool`), with features of --dims halves, random, so
that nothing compresses them, and the run lengths of --coco, a COCO file with annotations and a folder `images` beside
it, in place of the pool's squares. Where PostgreSQL is at hand the tables are in one, else in SQLite.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sqlalchemy import func, select, text

from campaign.derived.live import live
from campaign.jobs.broker import broker
from campaign.jobs.queues import enqueue
from campaign.records.page import NewPage
from campaign.settings import CampaignSettings
from campaign.steps.rounds import Step, StepName
from campaign.store import Store
from campaign.store import models as m
from ml_backend.masks.coco import CocoDataset, ImageRecord
from ml_backend.predictions import Predictions
from tests.benchmarks.reading import CLASSES, EACH
from tests.benchmarks.scale_pool import known_masks
from tests.benchmarks.turns import random_tree
from tests.security.faults.machines import Postgres

SIZE, ANSWERED = 15, 0.5  # masks on a page, and the share of the masks that is asked about
JOBS = 500


@contextmanager
def database(folder: Path) -> Iterator[str | None]:
    """The address of an empty database of PostgreSQL, None where there is none."""
    if Postgres.reason_without():
        yield None
        return
    folder.chmod(0o755)
    (folder / "postgres").mkdir()
    server = Postgres(folder / "postgres")
    try:
        yield server.database("sizes")
    finally:
        server.stop()


def table_bytes(store: Store, row: type[m.Base]) -> float:
    """Bytes of a row of a table with its indexes."""
    name = row.__tablename__
    with store.session() as session:
        rows = session.scalar(select(func.count()).select_from(row)) or 1
        if store.engine.dialect.name == "postgresql":
            taken = session.scalar(select(func.pg_total_relation_size(name)))
        else:
            like = "SELECT sum(s.pgsize) FROM dbstat s JOIN sqlite_master q ON q.name = s.name WHERE q.tbl_name = :name"
            taken = session.scalar(text(like), {"name": name})
    return round((taken or 0) / rows, 1)


def files(folder: Path, pattern: str = "*") -> int:
    """Bytes of the files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob(pattern) if path.is_file())


def measure(folder: Path, url: str | None, images: int, dims: int, coco: Path | None) -> dict[str, Any]:
    """{what: bytes} for a pool of so many images."""
    picture, rng = folder / "a.png", np.random.default_rng(0)
    Image.new("RGB", (64, 64)).save(picture)
    names = {c: f"class {c}" for c in range(1, CLASSES + 1)}
    pool = CocoDataset([ImageRecord(n, f"{n}.png", 64, 64, picture) for n in range(1, images + 1)], names)
    settings = CampaignSettings(name="sizes", jobs={"database_url": url} if url else {}, search={"policy": "adaptive"})
    store = Store.create(folder / "campaign", settings, {"pool": pool})
    store.rounds.start(1, "cluster")
    length = settings.jobs.shard_images
    known = [a.rle["counts"] for a in CocoDataset.load(coco, coco.parent / "images").annotations] if coco else []
    runs = 0
    for number in range(-(-images // length)):
        first = number * length + 1
        masks = known_masks(np.arange(first, min(first + length, images + 1)), CLASSES, EACH)
        masks = replace(masks, features=rng.normal(0, 1, (len(masks), dims)).astype(np.float16))
        if known:
            masks = with_outlines(masks, known)
        runs += sum(map(len, masks.rle))
        store.masks.save_shard(1, "pool", number, masks, length, 0.0)
    count = sum(masks for _, _, masks in store.masks.finished(1))
    base = store.rounds.folder(1)
    found: dict[str, Any] = {"images": images, "masks": count, "dims": dims, "run_lengths": round(runs / count, 1)}
    before = files(base)
    found["shard"] = round(before / count, 1)
    for number in range(len(store.bundles.planned(1))):
        store.bundles.gather(1, number)
    found["bundle"] = round((files(base) - before) / count, 1)
    before = files(base)
    for class_id in names:
        own = store.bundles.read(1, class_id, masks=False)
        order = np.argsort(own.mask_id)
        random_tree(np.asarray(own.score)[order]).save(store.trees.folder(1, class_id))
        store.trees.save(1, class_id, own.mask_id[order], 0, {"k_pr": 0.05, "k_pa": 0.1, "note": "", "curves": None})
    found["tree"] = round((files(base) - before) / count, 1)
    store.rounds.update(1, stage="verify")
    answered = ask_and_answer(store, list(names))
    with store.locked():
        live(store).views(1)
        live(store).save()
    found["views"] = round(files(store.folder / "derived") / count, 1)
    found["rows"] = {
        row.__tablename__: table_bytes(store, row) for row in (m.Image, m.Shard, m.Page, m.Question, m.Answer)
    }
    found["answers"], found["database"] = answered, store.engine.dialect.name
    found["job_in_redis"] = round(job_bytes(store))
    return found


def with_outlines(masks: Predictions, known: list[bytes]) -> Predictions:
    """The masks with known run lengths, in turns; nothing looks at their pictures here."""
    counts: np.ndarray = np.empty(len(masks), object)
    counts[:] = [known[n % len(known)] for n in range(len(masks))]
    return replace(masks, rle=counts)


def ask_and_answer(store: Store, classes: list[int]) -> int:
    """Pages for a share of all masks, each answered by one user; how many answers there are."""
    pages, answers, annotation = [], [], 0
    for class_id in classes:
        ids = store.trees.mask_ids(1, class_id).tolist()
        for start in range(0, int(len(ids) * ANSWERED) - SIZE, SIZE):
            annotation += 1
            shown = ids[start : start + SIZE]
            key = f"{store.key}-{class_id}-{start}"
            pages.append(NewPage(key, 1, class_id, tuple((mask, None) for mask in shown)))
            answers += [
                {
                    "page_key": key, "annotation_id": annotation, "mask_id": mask, "annotator": "1", "verdict": "yes",
                    "answered_at": f"2026-01-01T00:00:00.{annotation:06d}Z", "lead_time": 20.0,
                }
                for mask in shown
            ]  # fmt: skip
    store.pages.add(pages)
    return store.answers.add(answers)


def job_bytes(store: Store) -> float:
    """Bytes of Redis's memory for a step that waits."""
    with broker(store) as connection:
        used: Callable[[], int] = lambda: int(connection.info("memory")["used_memory"])  # noqa: E731
        before = used()
        for number in range(JOBS):
            enqueue(store, connection, Step(StepName.DETECT, "gpu", 1, ("pool", number)))
        return (used() - before) / JOBS


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--dims", type=int, default=256)
    parser.add_argument("--coco", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sizes-") as name, database(Path(name)) as url:
        result = measure(Path(name), url, options.images, options.dims, options.coco)
    print(json.dumps(result) if options.json else "\n".join(f"{k:>14} {v}" for k, v in result.items()))


if __name__ == "__main__":
    main()
