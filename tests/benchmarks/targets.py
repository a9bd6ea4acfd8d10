"""Does the policy with a target keep what it promises, and what does that cost? Simulated on real predictions.

    python -m tests.benchmarks.targets CAMPAIGN TRUTH.json [--seeds 40] [--targets 0.8 0.85 0.9] [--out FILE] [--json]
    python -m tests.benchmarks.targets CAMPAIGN TRUTH.json --others [--out FILE]

Every seed splits the images anew: of those that the detector was not trained on, as many as were held out are taken for
held-out ones, the others for the pool. Annotators are careful, err in 5 % of their answers, or have eyes that cut at
IoU 0.70. Counted is all that people see: questions, gold, draws of the promise. `--others` runs the policies `paper`
(remembered answers count once) and `adaptive` on the campaign's own split, with an audit.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from campaign.search.verifier import Rows
from campaign.simulation.study import SimulationOptions
from campaign.simulation.targets import Pool, campaign_pool, simulate_target
from campaign.store import Store

CROWDS: dict[str, dict[str, float]] = {"careful": {}, "errors": {"answer_error": 0.05}, "eye": {"eye_cut": 0.70}}


def split_by_image(pool: Pool, seed: int) -> Pool:
    """Another split of the same images into held-out ones and the pool, as many of each as before."""
    offset = int(pool.rows.image.max()) + 1
    image = np.concatenate([pool.rows.image, pool.heldout.image + offset])
    images = np.unique(image)
    count = len(np.unique(pool.heldout.image))
    heldout = np.isin(image, np.random.default_rng((seed, 77)).permutation(images)[:count])
    n = len(pool)

    def rows(chosen: np.ndarray) -> Rows:
        return Rows(
            np.concatenate([pool.rows.inputs, pool.heldout.inputs])[chosen],
            np.concatenate([pool.rows.class_id, pool.heldout.class_id])[chosen],
            image[chosen],
        )

    iou = np.concatenate([pool.iou, pool.heldout_iou])
    correct = np.concatenate([pool.correct, pool.heldout_correct])
    place = np.cumsum(~heldout) - 1
    a = np.concatenate([pool.pairs[0], pool.heldout_pairs[0] + n])
    b = np.concatenate([pool.pairs[1], pool.heldout_pairs[1] + n])
    inside = ~heldout[a]
    backwards = np.cumsum(heldout) - 1
    objects = {int(i): c for i, c in pool.objects.items()} | {i + offset: c for i, c in pool.heldout_objects.items()}
    return Pool(
        rows(~heldout), iou[~heldout], correct[~heldout], (place[a[inside]], place[b[inside]]),
        rows(heldout), iou[heldout], correct[heldout], (backwards[a[~inside]], backwards[b[~inside]]),
        {i: c for i, c in objects.items() if not np.isin(i, image[heldout])},
        {i: c for i, c in objects.items() if np.isin(i, image[heldout])},
    )  # fmt: skip


def study(pool: Pool, seeds: range, targets: list[float], crowds: list[str]) -> Iterator[dict[str, Any]]:
    """One row for each seed, target and crowd."""
    for seed in seeds:
        split = split_by_image(pool, seed)
        for target in targets:
            for crowd in crowds:
                started = time.perf_counter()
                options = SimulationOptions(policy="target", precision=target, seed=seed, **CROWDS[crowd])  # type: ignore[arg-type]
                result = simulate_target(options, split)
                keys = ("questions", "gold", "draws", "masks", "correct", "precision", "promised", "met", "recall")
                more = {"recall_promised": result["recall_promised"], "seconds": time.perf_counter() - started}
                yield {"seed": seed, "target": target, "crowd": crowd} | {k: result[k] for k in keys} | more


def others(store: Store, truth: Path, seeds: range, audit: int) -> Iterator[dict[str, Any]]:
    """The other policies at several levels, with an audit of so many questions."""
    from campaign.simulation.predictions import campaign_population
    from campaign.simulation.study import simulate

    population = campaign_population(store, truth, truth.parent / "images")
    for policy, levels in (("paper", (0.85, 0.9, 0.93, 0.95)), ("adaptive", (0.85, 0.88, 0.9, 0.93, 0.95))):
        for k_a in levels:
            for seed in seeds:
                options = SimulationOptions(policy=policy, k_a=k_a, seed=seed, audit=audit, gold=0)
                row = simulate(options, population).summary
                keys = ("questions", "masks", "correct", "precision", "promised")
                yield {"policy": policy, "k_a": k_a, "seed": seed} | {k: row[k] for k in keys}


def table(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over seeds, and how often target and promise were kept."""
    out = []
    for target, crowd in sorted({(r["target"], r["crowd"]) for r in rows}):
        own = [r for r in rows if (r["target"], r["crowd"]) == (target, crowd)]
        mean = {k: float(np.mean([r[k] for r in own])) for k in ("questions", "masks", "correct", "precision")}
        out.append(
            {
                "target": target, "crowd": crowd, "runs": len(own), "met": sum(bool(r["met"]) for r in own),
                "at_target": sum(r["precision"] >= target for r in own),
                "promise_true": sum(r["precision"] >= r["promised"] for r in own),
                "least_precision": min(r["precision"] for r in own),
                "promised": float(np.mean([r["promised"] for r in own])),
                **{k: round(v, 4) for k, v in mean.items()},
            }
        )  # fmt: skip
    return out


def main() -> None:
    """Runs the study and prints its table; rows are appended to the file as they come."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("campaign", type=Path)
    parser.add_argument("truth", type=Path)
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--targets", type=float, nargs="+", default=[0.8, 0.85, 0.9])
    parser.add_argument("--crowds", nargs="+", choices=list(CROWDS), default=list(CROWDS))
    parser.add_argument("--others", action="store_true")
    parser.add_argument("--audit", type=int, default=300)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    store = Store.open(options.campaign)
    seeds = range(options.first, options.first + options.seeds)
    if options.others:
        rows = others(store, options.truth, seeds, options.audit)
    else:
        pool = campaign_pool(store, options.truth, options.truth.parent / "images", 0.75)
        rows = study(pool, seeds, options.targets, options.crowds)
    done = []
    for row in rows:
        done.append(row)
        line = json.dumps(row)
        if options.out is not None:
            with options.out.open("a") as file:
                file.write(line + "\n")
        elif not options.json:
            print(line, flush=True)
    result = done if options.others else table(done)
    print(json.dumps(result) if options.json else "\n".join(json.dumps(row) for row in result))


if __name__ == "__main__":
    main()
