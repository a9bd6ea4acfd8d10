"""Does the forecast before the first question hold? Its 90 % intervals against what then comes, on real predictions.

    python -m tests.benchmarks.forecasts CAMPAIGN TRUTH.json [--seeds 20] [--precision 0.9] [--out FILE] [--json]

Every seed splits the images anew into held-out ones and the pool, as `tests.benchmarks.targets` does. What comes is a
simulated campaign of one round with careful annotators, scored one to one.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from campaign.certification.course import Masks, Terms
from campaign.certification.outlook import Figure, Known, outlook
from campaign.certification.promise import share_of
from campaign.search.selection import PRICE
from campaign.simulation.study import SimulationOptions
from campaign.simulation.targets import Pool, campaign_pool, run_target
from campaign.store import Store
from ml_backend.masks.coco import CocoDataset
from tests.benchmarks.targets import split_by_image

FIGURES = "masks", "correct", "questions", "objects", "recall"


def study(
    pool: Pool, objects: np.ndarray, images: tuple[int, int], seeds: range, precision: float
) -> Iterator[dict[str, Any]]:
    """One row for each seed: each figure's forecast with its interval, what came, and whether that lay inside.

    `objects` (o, 2) are image, numbered as in a split, and class of every true object; `images` how many are in the
    pool and held out.
    """
    for seed in seeds:
        started = time.process_time()
        split = split_by_image(pool, seed)
        options = SimulationOptions(policy="target", precision=precision, seed=seed, looked=0)
        terms = Terms(precision, share_of(1, 1 - options.confidence), PRICE, options.k_iou, seed)
        masks = Masks(split.rows, split.pairs, split.heldout, split.heldout_iou)
        held = np.isin(objects[:, 0], np.unique(split.heldout.image))
        found = outlook(Known(masks, images[1], images[0], objects[held]), terms)
        assert found is not None
        run = run_target(split, options)
        truth = {"masks": run.masks, "correct": run.correct, "questions": run.questions, "objects": run.objects}
        row: dict[str, Any] = {"seed": seed, "met": run.promise.met}
        for name, came in (truth | {"recall": run.recall}).items():
            figure: Figure = getattr(found[0], name)
            inside = figure.low <= came <= figure.high
            row[name] = {
                "forecast": figure.value, "low": figure.low, "high": figure.high, "came": came, "inside": inside,
            }  # fmt: skip
        yield row | {"cpu_seconds": time.process_time() - started}


def table(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How often each figure lay inside its interval, and by how much the forecasts were off."""
    out: dict[str, Any] = {"splits": len(rows)}
    for name in FIGURES:
        own = [r[name] for r in rows]
        forecast, came = (np.array([o[k] for o in own], float) for k in ("forecast", "came"))
        width = np.array([o["high"] - o["low"] for o in own]) / np.maximum(came, 1e-9)
        out[name] = {
            "inside": sum(bool(o["inside"]) for o in own),
            "forecast_to_came": round(float(forecast.mean() / max(came.mean(), 1e-9)), 3),
            "width_to_came": round(float(width.mean()), 3),
        }
    return out


def main() -> None:
    """Runs the study and prints its table; rows are appended to the file as they come."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("campaign", type=Path)
    parser.add_argument("truth", type=Path)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--precision", type=float, default=0.9)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    store, images = Store.open(options.campaign), options.truth.parent / "images"
    pool = campaign_pool(store, options.truth, images, 0.75)
    data, held = CocoDataset.load(options.truth, images), store.images.annotated("heldout")
    # Held-out images are numbered behind those of the pool in a split.
    tables = [
        np.array([(a.image_id + first, a.class_id) for a in table.annotations if not a.iscrowd], np.int64)
        for table, first in ((data, 0), (held, int(pool.rows.image.max()) + 1))
    ]
    rows, seeds = [], range(options.first, options.first + options.seeds)
    counts = len(data.images), len(held.images)
    for row in study(pool, np.concatenate(tables), counts, seeds, options.precision):
        rows.append(row)
        if options.out is not None:
            with options.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
        elif not options.json:
            print(json.dumps(row), flush=True)
    print(json.dumps(table(rows)))


if __name__ == "__main__":
    main()
