"""Masks obtained against annotated clusters for each feature that masks can be clustered by.

    python -m tests.benchmarks.feature_comparison --checkpoint nuclei=model.pt --checkpoint granular=model.pt \\
        --plot tests/benchmarks/features.png [--detector pointrend] [--json]

A trained detector finds the masks of a data set's pool and held-out images with all feature kinds in one pass. For
each kind the masks are clustered by the feature alone, for mask attention also by feature and score, which is what
campaigns do, and the published search runs over the trees, answered from the true IoUs.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from platformdirs import user_cache_path

from tests.benchmarks.features import DATA

K_IOU = 0.75
# Title, feature kind, whether the score counts in the distance.
VARIANTS = (
    ("mask logits", "mask_logits", False),
    ("backbone", "backbone", False),
    ("MaskIoU", "mask_iou", False),
    ("mask attention", "mask_attention", False),
    ("mask attention + score", "mask_attention", True),
)
# A scale so large that scores make no difference to a distance.
NO_SCORE = 1e12


def found_masks(detector: str, checkpoint: Path, name: str, most: int) -> dict[str, Any]:
    """Arrays of pool and held-out masks, as `pool/scores` and so on; made once per checkpoint."""
    from ml_backend.detector import load_detector_class
    from ml_backend.learning.evaluation import true_iou
    from ml_backend.learning.features import KINDS
    from ml_backend.masks.coco import CocoDataset
    from ml_backend.predictions import Predictions

    model: Any = load_detector_class(detector).load(checkpoint)
    path = user_cache_path("label-studio-cluster-verification") / "benchmarks" / f"{name}-{model.version}-{most}.npz"
    if not path.is_file():
        arrays = {}
        for part in ("pool", "heldout"):
            truth = CocoDataset.load(DATA / name / f"{part}.json", DATA / name / "images")
            rows = []
            for done, row in enumerate(model.predict_kinds(truth.images[:most]), 1):
                rows.append(row)
                if done % 50 == 0:
                    print(f"{name}: {part} {done}", file=sys.stderr)
            masks = Predictions.concatenate([predictions for predictions, _ in rows])
            arrays[f"{part}/scores"], arrays[f"{part}/class_id"] = masks.score, masks.class_id
            # As a person sees it who looks at the one mask.
            arrays[f"{part}/iou"] = true_iou(masks, truth, one_to_one=False)
            for kind in KINDS:
                arrays[f"{part}/{kind}"] = np.concatenate([features[kind] for _, features in rows])
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part.npz")
        np.savez(unfinished, **arrays)
        unfinished.replace(path)
    with np.load(path) as stored:
        return dict(stored) | {"version": model.version}


def populations(arrays: dict[str, Any], kind: str, with_score: bool) -> list[Any]:
    """The classes with trees by one feature."""
    from campaign.clustering import LinkageOptions, Tree, linkage
    from campaign.simulation.populations import ClassPopulation

    options = LinkageOptions(score_scale=None if with_score else NO_SCORE)
    classes = []
    for class_id in np.unique(arrays["pool/class_id"]).tolist():
        parts = []
        for part in ("pool", "heldout"):
            rows = arrays[f"{part}/class_id"] == class_id
            scores, iou = arrays[f"{part}/scores"][rows], arrays[f"{part}/iou"][rows]
            tree = Tree.build(linkage(arrays[f"{part}/{kind}"][rows].astype(np.float32), scores, options), scores)
            parts += [scores, iou, tree]
        classes.append(ClassPopulation(class_id, *parts))
    return classes


def course(classes: list[Any], seed: int, n_s: int, k_a: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Of the published search: annotated clusters and masks obtained so far, each (k,), and the final precision."""
    from campaign.search.policies import make_policy
    from campaign.simulation.annotators import Annotators
    from campaign.simulation.runs import run_campaign

    thresholds = {c.class_id: c.thresholds(K_IOU, k_a) for c in classes}
    run = run_campaign(classes, make_policy("paper", n_s, k_a), thresholds, Annotators(), seed=seed, k_iou=K_IOU)
    # One cluster is asked about at a time, so each rise of the questions is one.
    clusters = np.cumsum(np.diff(run.course.questions, prepend=0) > 0)
    return clusters, run.course.masks, float(run.course.correct[-1] / max(run.course.masks[-1], 1))


def compare(arrays: dict[str, Any], seeds: int, n_s: int, k_a: float) -> dict[str, dict[str, Any]]:
    """For each variant the mean course over the seeds, and where it ends."""
    result = {}
    for title, kind, with_score in VARIANTS:
        classes = populations(arrays, kind, with_score)
        courses = [course(classes, seed, n_s, k_a) for seed in range(seeds)]
        most = max(int(clusters[-1]) for clusters, _, _ in courses)
        at = np.unique(np.geomspace(1, max(most, 2), 60).astype(int))
        masks = np.mean([m[np.searchsorted(c, at, side="right") - 1] for c, m, _ in courses], axis=0)
        result[title] = {
            "clusters": at.tolist(),
            "masks": [round(float(m), 1) for m in masks],
            "annotated": round(float(np.mean([c[-1] for c, _, _ in courses])), 1),
            "obtained": round(float(np.mean([m[-1] for _, m, _ in courses]))),
            "precision": round(float(np.mean([p for _, _, p in courses])), 4),
        }
    return result


def at_clusters(row: dict[str, Any], clusters: int) -> int:
    """Masks obtained after so many annotated clusters."""
    return round(float(np.interp(clusters, row["clusters"], row["masks"])))


def draw(results: dict[str, dict[str, Any]], path: Path) -> None:
    """One panel per data set."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * len(results), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(results), squeeze=False)[0]
    colours, dashes = ("#e69f00", "#56b4e9", "#cc79a7", "#009e73", "#0072b2"), (":", "-.", "--", "--", "-")
    for panel, (name, result) in zip(panels, results.items(), strict=True):
        for (title, row), colour, dash in zip(result["variants"].items(), colours, dashes, strict=True):
            panel.plot(row["clusters"], row["masks"], label=title, color=colour, ls=dash, lw=1.6)
        panel.set(title=name, xlabel="annotated clusters", ylabel="masks obtained")
        panel.grid(alpha=0.3, lw=0.5)
    panels[0].legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def main() -> None:
    """Run the comparison of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", action="append", required=True, metavar="DATA=FILE", help="may be repeated")
    parser.add_argument("--detector", default="torchvision")
    parser.add_argument("--images", type=int, default=200, help="most images of a pool")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--n-s", type=int, default=15)
    parser.add_argument("--k-a", type=float, default=0.85)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = {}
    for given in arguments.checkpoint:
        name, _, checkpoint = given.partition("=")
        arrays = found_masks(arguments.detector, Path(checkpoint), name, arguments.images)
        variants = compare(arrays, arguments.seeds, arguments.n_s, arguments.k_a)
        good = int((arrays["pool/iou"] >= K_IOU).sum())
        results[name] = {"pool": len(arrays["pool/iou"]), "good": good, "version": arrays["version"]}
        results[name]["variants"] = variants
        if not arguments.json:
            print(f"{name}: {len(arrays['pool/iou'])} masks, {good} of them good, by {arrays['version']}")
            early = min(round(row["annotated"]) for row in variants.values())
            print(f"| feature | masks at {early // 2} clusters | at {early} | at the end | precision |")
            for title, row in variants.items():
                some = f"{at_clusters(row, early // 2)} | {at_clusters(row, early)}"
                print(f"| {title} | {some} | {row['obtained']} at {row['annotated']} | {row['precision']} |")
    if arguments.plot:
        draw(results, arguments.plot)
    if arguments.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
