"""What it costs to find and read a part of a large campaign, in seconds of the processor and bytes, by size.

    python -m tests.benchmarks.reading --images 16000 --json

A pool of so many images with ten known masks each (`tests.benchmarks.scale_pool`), in shards of 128 images and 20
classes. Each thing is done by what the campaign uses, and, `from shards` and `from a list`, by way of everything.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from campaign.settings import CampaignSettings
from campaign.store import Store
from ml_backend.detectors.results_index import ResultsIndex, write_index
from ml_backend.masks.coco import CocoDataset, ImageRecord
from tests.benchmarks.scale_pool import known_masks, write_results
from tests.benchmarks.scale_process import read_and_written

CLASSES, EACH, OF_SHARD = 20, 10.0, 128
FOUND = 20  # shards whose images are looked up


def measure(folder: Path, images: int) -> dict[str, Any]:
    """{what: {cpu_seconds, read_mib}} for a pool of so many images."""
    picture = folder / "a.png"
    Image.new("RGB", (64, 64)).save(picture)
    names = {c: f"class {c}" for c in range(1, CLASSES + 1)}
    pool = CocoDataset([ImageRecord(n, "a.png", 64, 64, picture) for n in range(1, images + 1)], names)
    store = Store.create(folder / "campaign", CampaignSettings(name="reading"), {"pool": pool})
    store.rounds.start(1, "cluster")
    shards = -(-images // OF_SHARD)
    for number in range(shards):
        first = number * OF_SHARD + 1
        masks = known_masks(np.arange(first, min(first + OF_SHARD, images + 1)), CLASSES, EACH)
        store.masks.save_shard(1, "pool", number, masks, OF_SHARD, 0.0)
    numbers = np.linspace(0, shards - 1, FOUND).astype(int).tolist()
    results = folder / "results.jsonl"
    write_results(results, images, CLASSES, EACH)
    ids = np.sort(store.masks.predictions(1, "pool", 3, features=False).mask_id)
    parts: dict[str, Callable[[], object]] = {
        f"images of {FOUND} shards": lambda: [store.images.shard("pool", n, OF_SHARD, 1) for n in numbers],
        f"images of {FOUND} shards, from a list": lambda: [
            store.images.records("pool")[n * OF_SHARD : (n + 1) * OF_SHARD] for n in numbers
        ],
        "all masks into order of class": lambda: [
            store.bundles.gather(1, n) for n in range(len(store.bundles.planned(1)))
        ],
        "a class with its features": lambda: np.array(store.bundles.read(1, 3, masks=False).features),
        "a class with its features, from shards": lambda: store.masks.predictions(1, "pool", 3),
        "a class by its ids": lambda: store.masks.read(ids),
        "results into an index": lambda: write_index(results, folder / "results.sqlite"),
        "results of 100 images": lambda: [
            ResultsIndex(folder / "results.sqlite").of_image(n, f"pool-{n - 1:07d}.png") for n in range(1, 101)
        ],
    }
    found: dict[str, Any] = {}
    for name, part in parts.items():
        cpu, before = time.process_time(), read_and_written()[0]
        part()
        mib = (read_and_written()[0] - before) / 2**20
        found[name] = {"cpu_seconds": round(time.process_time() - cpu, 3), "read_mib": round(mib, 1)}
    masks = sum(masks for _, _, masks in store.masks.finished(1))
    return {"images": images, "masks": masks, "shards": shards, "parts": found}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=16_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="reading-") as folder:
        result = measure(Path(folder), options.images)
    if options.json:
        print(json.dumps(result))
        return
    print(f"{result['images']} images, {result['masks']} masks, {result['shards']} shards")
    for name, figures in result["parts"].items():
        print(f"{name:>45} {figures}")


if __name__ == "__main__":
    main()
