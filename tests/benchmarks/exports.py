"""What an export costs as a dataset grows: `python -m tests.benchmarks.exports --masks 1000000 --json`.

Campaigns whose first round has ended with so many masks, about 10 on each image and of a few hundred bytes each, at
three sizes a factor of four apart. Each form is exported by the command line in a process of its own. Prints, with
--json as one object, `forms` ({form: {seconds, cpu_seconds, peak_rss_gib, read_gib, written_gib}}) at the largest
size, all of them under `sizes`, and `growth`: exponents over the masks.

With --workers N it measures instead, at that size, exports in parts by one process and by N workers of a real Redis:
`forms` is {form: {"one process", "workers": {seconds, cpu_seconds, peak_rss_gib}}}, of the workers all processes' time
together, and of the memory that of the command and the most that one worker had.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as mask_util

from campaign.dataset.listed import PIECE, ListedMasks
from campaign.jobs.broker import connect
from campaign.jobs.step_jobs import step_workers
from campaign.records.dataset_masks import DatasetMasks
from campaign.records.stage import Stage
from campaign.settings import CampaignSettings
from campaign.store import Store
from ml_backend.masks.coco import CocoDataset, ImageRecord
from ml_backend.predictions import Predictions
from tests.benchmarks.scale import FACTOR, GIB, SIZES, exponents
from tests.benchmarks.scale_pool import PLACE, PLACES, SIDE, known_masks
from tests.security.faults.machines import Redis

EACH = 10  # masks on an image
ENLARGED = 8  # the raster of `known_masks` is drawn so many times as large
FORMS = {
    "coco": (),
    "parquet": ("--format", "parquet"),
    "coco, parts by class": ("--parts", "class"),
    "parquet, parts by images": ("--format", "parquet", "--parts", "10000"),
}


@cache
def shapes() -> np.ndarray:
    """The run lengths of a ragged mask in each place, (PLACES,) of bytes."""
    found: np.ndarray = np.empty(PLACES, object)
    rng, side, width = np.random.default_rng(5), SIDE * ENLARGED, PLACE * ENLARGED
    for place in range(PLACES):
        mask = np.zeros((side, side), np.uint8, order="F")
        x, y = place % 4 * width, place // 4 * width
        for column in range(width - 4):
            top, bottom = rng.integers(0, 8), width - rng.integers(4, 12)
            mask[y + top : y + bottom, x + column] = 1
        found[place] = mask_util.encode(mask)["counts"]
    return found


def enlarged(masks: Predictions) -> Predictions:
    """The known masks with shapes as real ones have them."""
    place = (masks.box[:, 1] // PLACE * 4 + masks.box[:, 0] // PLACE).astype(int)
    size = np.full((len(masks), 2), SIDE * ENLARGED)
    return replace(masks, rle=shapes()[place], box=masks.box * ENLARGED, size=size)


def obtained(masks: Predictions) -> DatasetMasks:
    """Predictions as masks of the dataset."""
    n = len(masks)
    names = "mask_id", "image_id", "class_id", "box", "rle", "size", "confidence", "predicted_iou"
    return DatasetMasks(
        **{name: getattr(masks, name) for name in names}, round=np.ones(n), cluster=np.full(n, 7),
        asked=np.full(n, 15), yes=np.full(n, 14), rule=np.full(n, "quality", object),
        model_version=np.full(n, "v1", object), voted=np.zeros(n, bool),
    )  # fmt: skip


def make(folder: Path, images: int, classes: int, redis_url: str | None = None) -> int:
    """A campaign whose first round has ended; returns how many masks it brought."""
    names = {c: f"class {c}" for c in range(1, classes + 1)}
    side = SIDE * ENLARGED
    pool = [ImageRecord(n, f"{n:08d}.png", side, side, folder / f"{n:08d}.png") for n in range(1, images + 1)]
    settings = CampaignSettings(name="exports", search={"policy": "adaptive"}, jobs={"redis_url": redis_url})
    store = Store.create(folder, settings, {"pool": CocoDataset(pool, names)})
    store.rounds.start(1, "verify")
    store.rounds.update(1, model_version="v1")

    def pieces() -> Iterator[DatasetMasks]:
        length = PIECE // EACH
        for number, first in enumerate(range(1, images + 1, length)):
            masks = enlarged(known_masks(np.arange(first, min(first + length, images + 1)), classes, EACH))
            yield obtained(masks.with_ids(1, number))

    parts = list(pieces())
    whole = ListedMasks.concatenate([ListedMasks.of(part) for part in parts])
    store.datasets.save(1, whole)
    store.rounds.update(1, stage=Stage.DONE)
    store.engine.dispose()
    return len(whole)


def measure_shared(folder: Path, masks: int, classes: int, workers: int) -> dict[str, Any]:
    """The figures of exports in parts by one process, and by so many workers."""
    redis = Redis(folder / "redis")
    redis.start()
    running: list[subprocess.Popen] = []
    module = [sys.executable, "-m", "tests.benchmarks.scale_process"]
    try:
        count = make(folder / "campaign", masks // EACH, classes, redis.url)
        store = Store.open(folder / "campaign")
        for name in map(str, range(workers)):
            begin = [*module, str(folder / f"worker-{name}.jsonl"), "work", store.place, f"{store.key}-{name}"]
            running.append(subprocess.Popen(begin, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        while len(step_workers(connect(store))) < workers:
            time.sleep(0.2)
        forms = {form: options for form, options in FORMS.items() if "--parts" in options}
        result = {form: _both(store, folder, module, options, workers) for form, options in forms.items()}
    finally:
        for process in running:
            process.kill()
            process.wait()
        redis.stop()
    return {"masks": count, "workers": workers, "forms": result}


def _both(store: Store, folder: Path, module: list[str], options: Sequence[str], workers: int) -> dict[str, Any]:
    """Figures of one export, by one process and by the workers."""
    own, result = folder / "figures.jsonl", {}
    for who, more in (("one process", []), ("workers", ["--jobs"])):
        files = [own, *(folder / f"worker-{number}.jsonl" for number in range(workers))]
        for file in files:
            file.write_text("")
        (out := folder / "out").mkdir()
        command = ["command", who, "export", store.place, "--out", str(out / "export"), *options, *more, "--json"]
        subprocess.run([*module, str(own), *command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        (row,), *jobs = ([json.loads(line) for line in file.read_text().splitlines()] for file in files)
        told = [job for of_one in jobs for job in of_one]
        result[who] = {
            "seconds": round(row["ended"] - row["began"], 2),
            "cpu_seconds": round(row["cpu"] + sum(job["cpu"] for job in told), 2),
            "peak_rss_gib": [round(n / GIB, 3) for n in (row["rss"], max((job["rss"] for job in told), default=0))],
        }
        if told:
            span = max(job["ended"] for job in told) - min(job["began"] for job in told)
            result[who] |= {"jobs": [len(of_one) for of_one in jobs], "seconds_of_jobs": round(span, 2)}
        shutil.rmtree(out)
    return result


def measure(folder: Path, masks: int, classes: int) -> dict[str, Any]:
    """The figures of every form of export of one campaign."""
    count = make(folder / "campaign", masks // EACH, classes)
    figures = folder / "figures.jsonl"
    for form, options in FORMS.items():
        out = folder / "out" / "export"
        out.parent.mkdir(exist_ok=True)
        command = ["command", form, "export", folder / "campaign", "--out", out, *options, "--json"]
        subprocess.run(
            [sys.executable, "-m", "tests.benchmarks.scale_process", figures, *command],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        for file in out.parent.iterdir():
            file.unlink()
    rows = [json.loads(line) for line in figures.read_text().splitlines()]
    steps = {
        row["step"]: {
            "seconds": round(row["ended"] - row["began"], 2), "cpu_seconds": round(row["cpu"], 2),
            "peak_rss_gib": round(row["rss"] / GIB, 3), "read_gib": round(row["read"] / GIB, 3),
            "written_gib": round(row["written"] / GIB, 3),
        }
        for row in rows
    }  # fmt: skip
    return {"masks": count, "steps": steps}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--masks", type=int, default=1_000_000)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--folder", type=Path, help="where to put campaigns; a temporary folder by default")
    parser.add_argument("--workers", type=int, help="measure exports in parts by so many workers")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.workers:
        with tempfile.TemporaryDirectory(prefix="exports-", dir=options.folder) as name:
            print(json.dumps(measure_shared(Path(name), options.masks, options.classes, options.workers)))
        return
    sizes = []
    for step in reversed(range(SIZES)):
        with tempfile.TemporaryDirectory(prefix="exports-", dir=options.folder) as name:
            sizes.append(measure(Path(name), options.masks // FACTOR**step, options.classes))
    result = {"classes": options.classes, "forms": sizes[-1]["steps"], "growth": exponents(sizes), "sizes": sizes}
    if options.json:
        print(json.dumps(result))
        return
    for form, figures in result["forms"].items():
        print(f"{form:>24} {figures} {result['growth'][form]}")


if __name__ == "__main__":
    main()
