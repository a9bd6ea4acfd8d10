"""Trees on a GPU: how long they take, and whether they are right."""

from __future__ import annotations

import time
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from tests.benchmarks.gpu_bench import Bench, OutOfTimeError

DIMENSIONS = 256
KINDS = ("blobs", "noise")


def masks(n: int, kind: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, 256) and scores (n,), float32: `blobs` of about 500 masks, or uniform `noise`."""
    scores = rng.beta(5, 2, n).astype(np.float32)
    if kind == "noise":
        return rng.random((n, DIMENSIONS), np.float32), scores
    count = max(2, n // 500)
    centres = (rng.normal(size=(count, DIMENSIONS)) * rng.gamma(2, 1, (count, 1))).astype(np.float32)
    features = rng.standard_normal((n, DIMENSIONS), np.float32)
    features *= np.float32(0.7)
    for low in range(0, n, 1 << 16):
        part = features[low : low + (1 << 16)]
        part += centres[rng.integers(0, count, len(part))]
    return features, scores


def clustered(bench: Bench, features: np.ndarray, scores: np.ndarray, engine: str, device: str | None = None):
    """(result, figures) of one clustering on the device; raises OutOfTimeError where the run's time ends in it."""
    from campaign.clustering import LinkageOptions, cluster

    options = LinkageOptions(engine=engine, device=device or (str(bench.device) if bench.gpu else "cpu:0"))
    steps: dict[str, float] = {}
    if bench.gpu:
        torch.cuda.reset_peak_memory_stats(bench.device)
    began = time.perf_counter()

    def progress(step: str, done: int, total: int) -> None:
        now = time.perf_counter()
        steps[step] = round(now - began, 2)
        if now > bench.end:
            raise OutOfTimeError(f"stopped after {now - began:.0f} s, in {step} at {done} of {total}")

    result = cluster(features, scores, options, progress)
    bench.finish()
    figures: dict[str, Any] = {"masks": len(features), "seconds": round(time.perf_counter() - began, 2)}
    if bench.gpu:
        figures["peak_gpu_gib"] = round(torch.cuda.max_memory_allocated(bench.device) / 2**30, 2)
    return result, figures | {"finished_at": steps}


def warm_up(bench: Bench) -> None:
    """Start the device and compile what is not compiled yet."""
    features, scores = masks(3_000 if bench.gpu else 300, "blobs", bench.rng())
    for engine in ("exact", "approximate"):
        clustered(bench, features, scores, engine)


def check(bench: Bench) -> dict[str, Any]:
    """The device's trees of a part of the masks against SciPy's and the CPU engine's, and how long each takes.

    `passes` is a tree made with so little room that most of its merges come from lists of neighbours.
    """
    from campaign.clustering.compiled import COMPILED
    from campaign.clustering.device import DeviceClusters

    warm_up(bench)
    figures: dict[str, Any] = {}
    for kind in KINDS:
        features, scores = masks(bench.sizes.scipy, kind, bench.rng())
        ours, _ = clustered(bench, features, scores, "exact")
        figures[f"scipy_{kind}"] = compared(ours.linkage, scipy_tree(ours, features, scores))
        if not COMPILED:
            continue
        features, scores = masks(bench.sizes.part, kind, bench.rng())
        clustered(bench, features[:9_000], scores[:9_000], "exact", "cpu")
        ours, here = clustered(bench, features, scores, "exact")
        theirs, there = clustered(bench, features, scores, "exact", "cpu")
        seconds = {"masks": bench.sizes.part, "seconds": here["seconds"], "cpu_seconds": there["seconds"]}
        figures[f"cpu_{kind}"] = seconds | compared(ours.linkage, theirs.linkage)
        with patch.object(DeviceClusters, "room", lambda self: len(self) ** 2):  # of 4 bytes: half of the masks
            ours, here = clustered(bench, features, scores, "exact")
        figures[f"passes_{kind}"] = here | compared(ours.linkage, theirs.linkage)
    if not COMPILED:
        figures["cpu"] = "left out: the CPU engine and lists of neighbours need numba"
    return figures


def exact(bench: Bench, kind: str) -> dict[str, Any]:
    """The exact tree of 150,000 masks."""
    return exact_tree(bench, bench.sizes.exact, kind)


def exact_large(bench: Bench) -> dict[str, Any]:
    """The exact tree of 1,000,000 masks, which needs passes of lists before the matrix fits the device."""
    return exact_tree(bench, bench.sizes.large, "blobs")


def exact_tree(bench: Bench, n: int, kind: str) -> dict[str, Any]:
    """The exact tree of n masks, and merges of it held against distances in double precision."""
    warm_up(bench)
    features, scores = masks(n, kind, bench.rng())
    result, figures = clustered(bench, features, scores, "exact")
    worst, _ = merge_errors(result, features, scores)
    return figures | {"error_of_merges": worst, "correct": worst < 1e-4}


def approximate(bench: Bench) -> dict[str, Any]:
    """The approximate tree of 150,000 masks."""
    return approximate_tree(bench, bench.sizes.exact)


def approximate_large(bench: Bench) -> dict[str, Any]:
    """The approximate tree of 1,000,000 masks."""
    return approximate_tree(bench, bench.sizes.large)


def approximate_tree(bench: Bench, n: int) -> dict[str, Any]:
    """The approximate tree of n masks, the bound of its errors, and how many of its merges keep to it."""
    warm_up(bench)
    features, scores = masks(n, "blobs", bench.rng())
    result, figures = clustered(bench, features, scores, "approximate")
    _, kept = merge_errors(result, features, scores)
    figures |= {"error_bound_median": float(np.median(result.error)), "error_bound_most": float(result.error.max())}
    return figures | {"merges_within_bound": kept, "correct": kept == 1.0}


def scipy_tree(ours: Any, features: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """SciPy's complete linkage of the same fused distances, in double precision."""
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import pdist

    distance = pdist(features.astype(np.float64)) / ours.feature_scale
    distance += pdist(scores.astype(np.float64)[:, None]) / ours.score_scale
    return linkage(distance, "complete")


def compared(ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
    """Largest relative difference of sorted heights, and whether a few cuts part the masks in the same way."""
    from scipy.cluster.hierarchy import fcluster

    heights = theirs[:, 2]
    error = float((np.abs(ours[:, 2] - heights) / np.maximum(heights, 1e-6 * heights[-1])).max())
    same = {}
    for wanted in (2, 20, len(theirs) // 20, len(theirs) // 4):
        # Where the heights leave the widest gap near so many clusters: rounding must not decide.
        near = range(max(2, int(wanted * 0.8)), int(wanted * 1.2) + 2)
        count = max(near, key=lambda k: heights[-k + 1] - heights[-k])
        cut = (heights[-count + 1] + heights[-count]) / 2
        parts = [fcluster(tree, cut, "distance") for tree in (ours, theirs)]
        pairs = len(np.unique(np.stack(parts), axis=1)[0])
        same[count] = pairs == len(np.unique(parts[0])) == len(np.unique(parts[1]))
    correct = error < 1e-5 and all(same.values())
    return {"height_error": error, "same_parts_at": same, "correct": correct}


def merge_errors(result: Any, features: np.ndarray, scores: np.ndarray, count: int = 300) -> tuple[float, float]:
    """(largest relative error of the heights of some merges, share of them within the error that the result states).

    A merge's true height is the distance of its farthest pair of masks, here in double precision.
    """
    from campaign.clustering import Tree

    tree = Tree.build(result.linkage, scores)
    n, sides = tree.n, tree.children
    pairs = np.prod(tree.size[sides[tree.n :]].astype(float), axis=1)
    merges = np.flatnonzero(pairs <= 1e6)
    chosen = merges[np.linspace(0, len(merges) - 1, min(count, len(merges))).astype(int)]
    worst, kept = 0.0, 0
    for merge in chosen:
        x, y = (tree.members(side) for side in sides[n + merge])
        first, second = features[x].astype(np.float64), features[y].astype(np.float64)
        square = np.square(first).sum(1)[:, None] + np.square(second).sum(1) - 2 * first @ second.T
        true = np.sqrt(np.maximum(square, 0)) / result.feature_scale
        true += np.abs(scores[x].astype(np.float64)[:, None] - scores[y]) / result.score_scale
        height, farthest = tree.height[n + merge], true.max()
        worst = max(worst, abs(height - farthest) / farthest)
        bound = 0.0 if result.error is None else result.error[merge]
        kept += abs(height - farthest) <= bound + 1e-4 * farthest
    return float(worst), float(kept / len(chosen))
