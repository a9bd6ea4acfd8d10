"""Masks obtained at a given precision, with the predictions of several detectors.

    python -m tests.benchmarks.detectors --campaign tiny=FOLDER --campaign pointrend=FOLDER \\
        --truth ../shared/data/nuclei/pool.json --plot tests/benchmarks/detectors.png [--json]

Each campaign's first-round masks, as its folder holds them, are clustered and searched with the default policy, as
`campaign simulate --campaign` does, for several `K_a` and seeds: `K_a` moves a campaign along a curve of masks against
precision, and one cluster of many masks can move it a lot. The detector of the higher curve brings more masks at the
same precision.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


def measure(folder: Path, truth: Path, qualities: list[float], seeds: int) -> list[dict[str, Any]]:
    """One row per `K_a` and seed: questions, masks, precision."""
    from campaign.simulation import SimulationOptions, simulate
    from campaign.simulation.predictions import campaign_population
    from campaign.store import Store

    population = campaign_population(Store.open(folder), truth, truth.parent / "images")
    rows = []
    for k_a in qualities:
        for seed in range(seeds):
            found = simulate(SimulationOptions(k_a=k_a, seed=seed), population).as_dict(courses=False)
            rows.append({"k_a": k_a, "seed": seed} | {n: found[n] for n in ("questions", "masks", "precision")})
            print(f"{folder.name} {rows[-1]}", file=sys.stderr, flush=True)
    return rows


def means(rows: list[dict[str, Any]]) -> list[dict[str, float]]:
    """The rows' means over seeds, by precision."""
    found = []
    for k_a in sorted({row["k_a"] for row in rows}):
        mine = [row for row in rows if row["k_a"] == k_a]
        found.append({name: float(np.mean([row[name] for row in mine])) for name in mine[0] if name != "seed"})
    return sorted(found, key=lambda row: row["precision"])


def masks_at(rows: list[dict[str, Any]], precision: float) -> int | None:
    """Masks at a precision, between the means next to it; None beyond them."""
    points = means(rows)
    x = [row["precision"] for row in points]
    if not x[0] <= precision <= x[-1]:
        return None
    return round(float(np.interp(precision, x, [row["masks"] for row in points])))


def draw(results: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Every run as a dot, the means as a line."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    for (name, rows), colour, mark in zip(results.items(), ("#e69f00", "#0072b2", "#009e73"), "so^", strict=False):
        points = means(rows)
        panel.plot([p["precision"] for p in points], [p["masks"] for p in points], color=colour, lw=1.6, label=name)
        panel.scatter(
            [r["precision"] for r in rows], [r["masks"] for r in rows], color=colour, marker=mark, s=14, alpha=0.5
        )
    panel.set(xlabel="precision at IoU 0.75", ylabel="masks obtained")
    panel.grid(alpha=0.3, lw=0.5)
    panel.legend(frameon=False)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def main() -> None:
    """Run the benchmark of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--campaign", action="append", required=True, metavar="NAME=FOLDER", help="may be repeated")
    parser.add_argument("--truth", type=Path, required=True, help="COCO file of the pool; images/ lies beside it")
    parser.add_argument("--k-a", type=float, nargs="+", default=[0.75, 0.8, 0.85, 0.9])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--at", type=float, nargs="+", default=[0.78, 0.82, 0.86, 0.9], help="precisions of the table")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = {}
    for given in arguments.campaign:
        name, _, folder = given.partition("=")
        results[name] = measure(Path(folder), arguments.truth, arguments.k_a, arguments.seeds)
    if arguments.plot:
        draw(results, arguments.plot)
    if arguments.json:
        print(json.dumps(results))
        return
    for name, rows in results.items():
        for row in means(rows):
            print(f"{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in row.items()))
        print(f"{name}: masks at precision " + ", ".join(f"{p}: {masks_at(rows, p)}" for p in arguments.at))


if __name__ == "__main__":
    main()
