"""Ours, fastcluster and SciPy on the same masks, each in a process of its own.

    python -m tests.benchmarks.linkage --n 20000 --dim 256 --data blobs --json

Data: `nuclei` and `granular` are features of real detections (made once by `tests.benchmarks.features`, or
`--features FILE.npz`), resampled with jitter where more are needed; `blobs` are clusters of Gaussians; `noise` is
uniform noise. Peers get the condensed distances in double precision that they need; computing those is part of
their time, as it is of ours.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

KINDS = ("nuclei", "granular", "blobs", "noise")
PORTION = 65536  # masks that are made at a time
PEERS = {"none": (), "fastcluster": ("fastcluster",), "all": ("fastcluster", "scipy")}


def main() -> None:
    """Run the benchmark of the command line, or one process of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.linkage", description=__doc__.split("\n")[0])
    parser.add_argument("--n", type=int, required=True, help="number of masks")
    parser.add_argument("--dim", type=int, default=256, help="feature dimensions")
    parser.add_argument("--data", choices=KINDS, default="blobs")
    parser.add_argument("--features", type=Path, help="real features: an .npz with arrays features and scores")
    parser.add_argument("--peers", choices=PEERS, default="all", help="who runs beside ours")
    parser.add_argument("--engine", choices=("auto", "exact", "approximate"), default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--stored", action="store_true", help="features in half precision on disk, as campaigns have them"
    )
    parser.add_argument("--memory-gib", type=float, help="budget of ours")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeat", type=int, default=1, help="runs of ours; the fastest counts")
    parser.add_argument("--simulate", type=int, default=0, metavar="RUNS", help="also compare simulated campaigns")
    parser.add_argument("--policies", default="adaptive,paper", help="policies of the simulated campaigns")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments)
        return
    result = simulate(arguments) if arguments.simulate else measure(arguments)
    print(json.dumps(result) if arguments.json else "\n".join(f"{key:24} {value}" for key, value in result.items()))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run every process in turn and compare what they left behind."""
    import numpy as np

    load = round(os.getloadavg()[0], 2)  # what else the machine was doing: above 0.5 the seconds say little
    with tempfile.TemporaryDirectory(prefix="linkage-") as name:
        folder = Path(name)
        _start(arguments, folder, "data")
        ours = min((_start(arguments, folder, "ours") for _ in range(arguments.repeat)), key=lambda run: run["s"])
        peers = {peer: _start(arguments, folder, peer) for peer in PEERS[arguments.peers]}
        merges = np.load(folder / "ours.npy")
        error, correlation = None, None
        finished = [peer for peer in peers if (folder / f"{peer}.npy").is_file()]
        if finished and len(merges):
            reference = np.load(folder / f"{finished[0]}.npy")
            heights = np.sort(reference[:, 2])
            scale = np.maximum(heights, 1e-6 * heights[-1])
            error = float((np.abs(np.sort(merges[:, 2]) - heights) / scale).max())
            correlation = _correlation(merges, reference)
    result: dict[str, Any] = {"n": arguments.n, "dim": arguments.dim, "data": arguments.data}
    result |= {"engine": ours["engine"], "device": ours["device"], "ours_s": ours["s"]}
    result |= {f"{peer}_s": peers.get(peer, {}).get("s") for peer in ("fastcluster", "scipy")}
    result["ours_rss_gib"] = ours["rss_gib"]
    result |= {f"{peer}_rss_gib": peers.get(peer, {}).get("rss_gib") for peer in ("fastcluster", "scipy")}
    result |= {"max_rel_height_error": error, "cophenetic_corr": correlation}
    result |= {f"{peer}_cpu_s": run["cpu_s"] for peer, run in {"ours": ours, **peers}.items()}
    result["load_before"] = load
    result |= {key: ours[key] for key in ("tree_s", "max_error_bound", "median_error_bound", "steps")}
    return result


def simulate(arguments: argparse.Namespace) -> dict[str, Any]:
    """Masks per question of simulated campaigns on the approximate tree and on the exact one of the same masks."""
    import numpy as np

    from campaign.clustering import LinkageOptions, Tree, cluster
    from campaign.search.policies import POLICIES
    from campaign.simulation.annotators import Annotators
    from campaign.simulation.populations import ClassPopulation
    from campaign.simulation.runs import run_campaign
    from tests.benchmarks.features import real_features

    stored = real_features(arguments.data, arguments.features)
    gained: dict[str, dict[str, list[tuple[int, int]]]] = {}
    for seed in range(arguments.seed, arguments.seed + arguments.simulate):
        rng = np.random.default_rng(seed)
        heldout = np.isin(stored["image"], rng.permutation(np.unique(stored["image"]))[::5])
        parts = {}
        for name, chosen, count in (("pool", ~heldout, arguments.n), ("heldout", heldout, int(heldout.sum()))):
            arrays = (stored["features"][chosen], stored["scores"][chosen])
            which, features, scores = resampled(*arrays, count, arguments.dim, np.random.default_rng(seed))
            parts[name] = features, scores, stored["iou"][chosen][which]
        trees = {
            (engine, name): Tree.build(
                cluster(*parts[name][:2], LinkageOptions(engine=engine, device=arguments.device, seed=seed)).linkage,
                parts[name][1],
            )
            for engine in ("exact", "approximate")
            for name in parts
        }
        for engine in ("exact", "approximate"):
            (_, scores, iou), (_, held_scores, held_iou) = parts["pool"], parts["heldout"]
            population = ClassPopulation(
                1, scores, iou, trees[engine, "pool"], held_scores, held_iou, trees["exact", "heldout"]
            )
            thresholds = {1: population.thresholds(0.75, 0.85)}
            for policy in arguments.policies.split(","):
                run = run_campaign([population], POLICIES[policy](), thresholds, Annotators(), seed=seed)
                outcome = run.course.summary()
                counts = int(outcome["masks"]), int(outcome["questions"])
                gained.setdefault(policy, {}).setdefault(engine, []).append(counts)
    result: dict[str, Any] = {"n": arguments.n, "dim": arguments.dim, "data": arguments.data}
    for policy, runs in gained.items():
        totals = {engine: np.sum(counts, axis=0) for engine, counts in runs.items()}
        rates = {engine: round(float(masks / questions), 4) for engine, (masks, questions) in totals.items()}
        result[policy] = {"masks_and_questions": runs, "masks_per_question": rates}
        result[policy]["ratio"] = round(rates["approximate"] / rates["exact"], 4)
    return result


def work(arguments: argparse.Namespace) -> None:
    """One process: make the data, or cluster it and report seconds and peak memory."""
    folder, task = arguments.folder, arguments.worker
    if task == "ours":
        from campaign.clustering.blas import prefer_wide_kernels

        prefer_wide_kernels()  # as the campaign's command line does
    import numpy as np

    if task == "data":
        form = np.float16 if arguments.stored else np.float32
        shape = arguments.n, arguments.dim
        features = np.lib.format.open_memmap(folder / "features.npy", "w+", form, shape)
        np.save(folder / "scores.npy", data(arguments, features))
        print(json.dumps({}))
        return
    features = np.load(folder / "features.npy", mmap_mode="r" if arguments.stored else None)
    scores = np.load(folder / "scores.npy")
    run = _ours if task == "ours" else _peer
    print(json.dumps(run(arguments, features, scores)))


def data(arguments: argparse.Namespace, features: Any) -> Any:
    """Writes features of the wanted kind into (n, d), in blocks, and returns scores float32 (n,)."""
    import numpy as np

    n, dim, rng = arguments.n, arguments.dim, np.random.default_rng(arguments.seed)
    if arguments.data in ("nuclei", "granular"):
        return _real(arguments, rng, features)
    centres = rng.normal(size=(max(2, n // 500), dim)) * rng.gamma(2, 1, (max(2, n // 500), 1))
    for low in range(0, n, PORTION):
        high = min(n, low + PORTION)
        if arguments.data == "noise":
            features[low:high] = rng.random((high - low, dim))
        else:
            part = centres[rng.integers(0, len(centres), high - low)]
            features[low:high] = part + rng.normal(size=(high - low, dim), scale=0.7)
    return rng.beta(5, 2, n).astype(np.float32)


def _real(arguments: argparse.Namespace, rng: Any, out: Any) -> Any:
    from tests.benchmarks.features import real_features

    stored = real_features(arguments.data, arguments.features)
    arrays = stored["features"], stored["scores"]
    return resampled(*arrays, arguments.n, arguments.dim, rng, out)[2]


def resampled(features: Any, scores: Any, n: int, dim: int, rng: Any, out: Any = None) -> tuple[Any, Any, Any]:
    """n of these masks, without repetition as far as they reach and then with jitter; which, features, scores.

    More than `dim` features are projected to so many. out: (n, d) to write them to, in blocks.
    """
    import numpy as np

    features = features.astype(np.float32)
    if features.shape[1] > dim:
        features = features @ (rng.normal(size=(features.shape[1], dim)) / dim**0.5).astype(np.float32)
    which = rng.permutation(len(features))[:n]
    which = np.append(which, rng.integers(0, len(features), n - len(which)))
    out = np.empty((n, features.shape[1]), np.float32) if out is None else out
    jitter, repeated = 0.3 * features.std(0), len(features)
    out[:repeated] = features[which[:repeated]]
    for low in range(repeated, n, PORTION):
        part = features[which[low : low + PORTION]]
        part += rng.normal(size=part.shape).astype(np.float32) * jitter
        out[low : low + PORTION] = part
    marks = scores[which].astype(np.float32)
    marks[repeated:] += rng.normal(size=max(0, n - repeated)) * 0.02
    return which, out, marks.clip(0, 1)


def _ours(arguments: argparse.Namespace, features: Any, scores: Any) -> dict[str, Any]:
    import numpy as np

    from campaign.clustering import LinkageOptions, Tree, cluster

    memory = int(arguments.memory_gib * 2**30) if arguments.memory_gib else None
    for engine in {"exact", arguments.engine} - {"auto"}:  # compile what is not compiled yet
        size = 9000 if engine == "exact" else 3000
        options = LinkageOptions(engine=engine, device=arguments.device, seed=arguments.seed)
        cluster(features[:size], scores[:size], options)
    options = LinkageOptions(engine=arguments.engine, device=arguments.device, memory=memory, seed=arguments.seed)
    steps: dict[str, list[float]] = {}
    began, spent = time.perf_counter(), time.process_time()

    def progress(step: str, done: int, total: int) -> None:
        now = time.perf_counter() - began
        steps.setdefault(step, [round(now, 2), 0])[1] = round(now, 2)

    result = cluster(features, scores, options, progress)
    seconds, spent = time.perf_counter() - began, time.process_time() - spent
    began = time.perf_counter()
    Tree.build(result.linkage, scores)
    tree = time.perf_counter() - began
    np.save(arguments.folder / "ours.npy", result.linkage)
    np.save(arguments.folder / "scales.npy", [result.feature_scale, result.score_scale])
    bound = result.error
    return {
        "s": round(seconds, 3),
        "cpu_s": round(spent, 3),
        "rss_gib": _peak(),
        "engine": result.engine,
        "device": result.device,
        "tree_s": round(tree, 3),
        "max_error_bound": None if bound is None else float(bound.max()),
        "median_error_bound": None if bound is None else float(np.median(bound)),
        "steps": steps,
    }


def _peer(arguments: argparse.Namespace, features: Any, scores: Any) -> dict[str, Any]:
    import numpy as np
    from scipy.spatial.distance import pdist

    feature_scale, score_scale = np.load(arguments.folder / "scales.npy")
    if arguments.worker == "scipy":
        from scipy.cluster.hierarchy import linkage
    else:
        from fastcluster import linkage
    began, spent = time.perf_counter(), time.process_time()
    distance = pdist(features.astype(np.float64))
    distance /= feature_scale
    scores = scores.astype(np.float64) / score_scale
    place = 0
    for i in range(len(scores) - 1):
        distance[place : place + len(scores) - 1 - i] += np.abs(scores[i + 1 :] - scores[i])
        place += len(scores) - 1 - i
    keep = {"preserve_input": False} if arguments.worker == "fastcluster" else {}
    merges = linkage(distance, "complete", **keep)
    seconds, spent = time.perf_counter() - began, time.process_time() - spent
    np.save(arguments.folder / f"{arguments.worker}.npy", merges)
    return {"s": round(seconds, 3), "cpu_s": round(spent, 3), "rss_gib": _peak()}


def _correlation(ours: Any, theirs: Any, pairs: int = 200_000) -> float:
    """Correlation of cophenetic distances on random pairs of masks."""
    import numpy as np

    n = len(ours) + 1
    rng = np.random.default_rng(0)
    left, right = rng.integers(0, n, pairs), rng.integers(0, n, pairs)
    left, right = left[left != right], right[left != right]
    return float(np.corrcoef(_cophenetic(ours, left, right), _cophenetic(theirs, left, right))[0, 1])


def _cophenetic(merges: Any, left: Any, right: Any) -> Any:
    """Heights at which pairs of leaves meet: all pairs climb their tree together."""
    import numpy as np

    n = len(merges) + 1
    parent = np.empty(2 * n - 1, np.int64)
    parent[merges[:, :2].astype(np.int64)] = np.arange(n, 2 * n - 1)[:, None]
    parent[-1] = 2 * n - 2
    left, right = left.copy(), right.copy()
    apart = np.flatnonzero(left != right)
    while len(apart):
        a, b = left[apart], right[apart]
        left[apart] = np.where(a < b, parent[a], a)
        right[apart] = np.where(b < a, parent[b], b)
        apart = apart[left[apart] != right[apart]]
    return merges[left - n, 2]


def _peak() -> float:
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30, 3)


def _start(arguments: argparse.Namespace, folder: Path, task: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.benchmarks.linkage", "--worker", task, "--folder", str(folder)]
    command += ["--stored"] if arguments.stored else []
    for name in ("n", "dim", "data", "engine", "device", "seed", "features", "memory_gib"):
        value = getattr(arguments, name)
        if value is not None:
            command += [f"--{name.replace('_', '-')}", str(value)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=os.environ, check=False)
    if done.returncode:
        sys.exit(f"{task}: expected a finished run, got exit status {done.returncode}")
    return json.loads(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    main()
